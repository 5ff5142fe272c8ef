-- What people write beside an experiment. Its labels stand in its file.

ALTER TABLE experiments ADD COLUMN note text NOT NULL DEFAULT '' CHECK (char_length(note) <= 10000);
COMMENT ON COLUMN experiments.note IS 'Markdown, for people';
