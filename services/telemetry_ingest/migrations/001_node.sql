-- The inventory: the encoded record that was published last for each node, and who declared the node.
CREATE TABLE node (
    name    text   PRIMARY KEY,
    record  bytea  NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    origin  text   NOT NULL
);
