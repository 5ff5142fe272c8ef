-- What is said to people is kept as a kind and values too, beside its English words: each reader words it in their language.
ALTER TABLE events ADD COLUMN said jsonb;
COMMENT ON COLUMN events.said IS 'Said: the sentence as a kind and values; null where only the sentence is known';
ALTER TABLE progress ADD COLUMN waits_for_said jsonb;
COMMENT ON COLUMN progress.waits_for_said IS 'Said: the same as waits_for';
ALTER TABLE experiments ADD COLUMN problem_said jsonb, ADD COLUMN paused_why_said jsonb;
COMMENT ON COLUMN experiments.problem_said IS 'Said: the same as problem, where its English words are that text';
COMMENT ON COLUMN experiments.paused_why_said IS 'Said: the same as paused_why, where its English words are that text';
ALTER TABLE branches ADD COLUMN problem_said jsonb;
COMMENT ON COLUMN branches.problem_said IS 'Said: the same as problem, where its English words are that text';
ALTER TABLE jobs ADD COLUMN problem_said jsonb;
COMMENT ON COLUMN jobs.problem_said IS 'Said: the same as problem, where its English words are that text';
ALTER TABLE workers ADD COLUMN set_aside_said jsonb;
COMMENT ON COLUMN workers.set_aside_said IS 'Said: the same as set_aside, where its English words are that text';
ALTER TABLE skips ADD COLUMN said jsonb;
COMMENT ON COLUMN skips.said IS 'Said: the same as text, where it is known as a kind and values';
