-- Sound spans in another unit than the estimate's, in a row.
ALTER TABLE estimate ADD COLUMN other_units integer NOT NULL DEFAULT 0;
