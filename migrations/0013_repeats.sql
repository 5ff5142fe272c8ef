-- Experts and controls can be trained several times with other seeds (evaluation.repeats): which time a branch is.
ALTER TABLE branches ADD COLUMN repeat integer NOT NULL DEFAULT 0 CHECK (repeat >= 0);
COMMENT ON COLUMN branches.repeat IS 'which training with another seed, from 0; 0 for what is trained once';
