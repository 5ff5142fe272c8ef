-- A fork starts from a checkpoint that somebody chose, whatever its branch does afterwards.
ALTER TABLE branches ADD COLUMN start_id uuid REFERENCES checkpoints;
COMMENT ON COLUMN branches.start_id IS 'checkpoint that a fork starts from; the others start from their parent''s last';
