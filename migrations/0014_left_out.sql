-- Files that a registration met and did not take.
ALTER TABLE corpora ADD COLUMN left_out jsonb NOT NULL DEFAULT '{"count": 0, "first": []}';
COMMENT ON COLUMN corpora.left_out IS 'what its folders and globs held and was not taken (LeftOut): how many, and the first with the reason';
