# One image for the API, the worker, the notifier and `todoke migrate`; the command decides which.

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY todoke/ todoke/
COPY service/ service/
COPY worker/ worker/
COPY notifier/ notifier/
RUN python -m venv /opt/todoke \
    && /opt/todoke/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin todoke
COPY --from=build /opt/todoke /opt/todoke
ENV PATH=/opt/todoke/bin:$PATH PYTHONUNBUFFERED=1
# Modules named by TODOKE_JOBS are found here: mount them, or build an image on top that copies them.
WORKDIR /jobs
USER 10001
CMD ["todoke", "api"]
