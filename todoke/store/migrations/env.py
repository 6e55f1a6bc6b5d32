"""Alembic's entry: runs the migrations over the connection that `todoke.store.migrate` hands it."""

from alembic import context

from todoke.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
