-- Where a served model takes requests while it is bound, and the nodes whose servers refused it in a row.
ALTER TABLE job
    ADD COLUMN endpoints     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN refused_nodes text[] NOT NULL DEFAULT '{}';
