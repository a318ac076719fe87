"""The database: engine, migrations, group commit, and the statements of every table. Sole home of SQLAlchemy."""
