# One image for the API, the worker, the notifier and `todoke migrate`; the command decides which.

FROM python:3.13-slim AS build
WORKDIR /source
RUN python -m venv --without-pip /opt/todoke
# What changes seldom first: a change of ours leaves the packages where they are. Their own tests stay behind, and what
# only compilers read.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > packages.txt \
    && python -m pip --python /opt/todoke install --no-cache-dir --disable-pip-version-check -c constraints.txt -r packages.txt \
    && find /opt/todoke -type d -name tests -prune -exec rm -rf {} + \
    && find /opt/todoke -type f '(' -name '*.a' -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' ')' -delete
COPY README.md LICENSE ./
COPY todoke/ todoke/
COPY service/ service/
COPY worker/ worker/
COPY notifier/ notifier/
RUN python -m pip --python /opt/todoke install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.13-slim
RUN groupadd --gid 10001 todoke \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin todoke
COPY --from=build /opt/todoke /opt/todoke
ENV PATH=/opt/todoke/bin:$PATH PYTHONUNBUFFERED=1
# Modules named by TODOKE_JOBS are found here: mount them, or build an image on top that copies them.
WORKDIR /jobs
USER 10001:10001
CMD ["todoke", "api"]
