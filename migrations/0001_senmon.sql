-- Senmon's state. Times are database times; states are words of the wire types; every rule of a state is a CHECK.

CREATE TABLE tokens (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'user', 'admin', 'worker')),
    prefix text NOT NULL,
    secret_sha256 bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz
);
COMMENT ON TABLE tokens IS 'API tokens; the secret itself is never stored';
COMMENT ON COLUMN tokens.id IS 'identity of the row, shown to people';
COMMENT ON COLUMN tokens.name IS 'name for people; recorded as the owner of what the token submits';
COMMENT ON COLUMN tokens.role IS 'what the token may do';
COMMENT ON COLUMN tokens.prefix IS 'first characters of the secret, to tell tokens apart';
COMMENT ON COLUMN tokens.secret_sha256 IS 'SHA-256 of the secret';
COMMENT ON COLUMN tokens.created_at IS 'when it was made';
COMMENT ON COLUMN tokens.used_at IS 'when it was last used, to the minute';

CREATE TABLE sessions (
    secret_sha256 bytea PRIMARY KEY CHECK (length(secret_sha256) = 32),
    token_id uuid NOT NULL REFERENCES tokens ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    one_time boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sessions IS 'browser sessions and one-time sign-in codes';
COMMENT ON COLUMN sessions.secret_sha256 IS 'SHA-256 of the cookie or code';
COMMENT ON COLUMN sessions.token_id IS 'the token that signed in';
COMMENT ON COLUMN sessions.expires_at IS 'not valid from then on';
COMMENT ON COLUMN sessions.one_time IS 'a code of a sign-in link: deleted when it is used';

CREATE TABLE idempotency_keys (
    token_id uuid NOT NULL REFERENCES tokens ON DELETE CASCADE,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    request_sha256 bytea NOT NULL,
    status smallint NOT NULL,
    response jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (token_id, key)
);
COMMENT ON TABLE idempotency_keys IS 'answers to requests that carried an Idempotency-Key, kept for a day';
COMMENT ON COLUMN idempotency_keys.token_id IS 'who asked';
COMMENT ON COLUMN idempotency_keys.key IS 'the header''s value';
COMMENT ON COLUMN idempotency_keys.request_sha256 IS 'SHA-256 of path and body: the same key with another request is refused';
COMMENT ON COLUMN idempotency_keys.status IS 'HTTP status answered';
COMMENT ON COLUMN idempotency_keys.response IS 'body answered';
COMMENT ON COLUMN idempotency_keys.created_at IS 'when';

CREATE TABLE corpora (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('scanning', 'ready', 'failed')),
    problem text CHECK ((problem IS NULL) = (state <> 'failed')),
    request jsonb NOT NULL,
    paths jsonb NOT NULL,
    files jsonb NOT NULL DEFAULT '[]',
    broken_first jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE corpora IS 'registered, immutable sets of documents';
COMMENT ON COLUMN corpora.id IS 'identity';
COMMENT ON COLUMN corpora.name IS 'name, unique';
COMMENT ON COLUMN corpora.state IS 'scanning until the snapshot is taken';
COMMENT ON COLUMN corpora.problem IS 'why it was refused';
COMMENT ON COLUMN corpora.request IS 'the registration (RegisterCorpus)';
COMMENT ON COLUMN corpora.paths IS 'files that the registration stands for, resolved once';
COMMENT ON COLUMN corpora.files IS 'the snapshot: CorpusFile with sizes, hashes and counts';
COMMENT ON COLUMN corpora.broken_first IS 'the first broken records';
COMMENT ON COLUMN corpora.created_at IS 'when it was registered';

CREATE TABLE clusterings (
    id uuid PRIMARY KEY,
    corpus_id uuid NOT NULL REFERENCES corpora,
    spec jsonb NOT NULL,
    spec_sha256 text NOT NULL,
    state text NOT NULL CHECK (state IN ('fitting', 'ready', 'failed')),
    problem text CHECK ((problem IS NULL) = (state <> 'failed')),
    router_key text,
    router_sha256 text,
    quality jsonb,
    domains jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (corpus_id, spec_sha256),
    CHECK ((state = 'ready') = (router_key IS NOT NULL AND router_sha256 IS NOT NULL AND quality IS NOT NULL))
);
COMMENT ON TABLE clusterings IS 'fitted partitions of corpora; equal corpus and settings share one';
COMMENT ON COLUMN clusterings.id IS 'identity';
COMMENT ON COLUMN clusterings.corpus_id IS 'the corpus divided';
COMMENT ON COLUMN clusterings.spec IS 'ClusteringSpec';
COMMENT ON COLUMN clusterings.spec_sha256 IS 'hash of the settings, for sharing';
COMMENT ON COLUMN clusterings.state IS 'fitting until the router is stored';
COMMENT ON COLUMN clusterings.problem IS 'why it failed';
COMMENT ON COLUMN clusterings.router_key IS 'folder of the router artefact in the store';
COMMENT ON COLUMN clusterings.router_sha256 IS 'hash of the artefact';
COMMENT ON COLUMN clusterings.quality IS 'ClusteringQuality';
COMMENT ON COLUMN clusterings.domains IS 'DomainView of each domain, by index';
COMMENT ON COLUMN clusterings.created_at IS 'when it was asked for';

CREATE TABLE tokenizers (
    id uuid PRIMARY KEY,
    corpus_id uuid NOT NULL REFERENCES corpora,
    spec jsonb NOT NULL,
    spec_sha256 text NOT NULL,
    state text NOT NULL CHECK (state IN ('fitting', 'ready', 'failed')),
    problem text CHECK ((problem IS NULL) = (state <> 'failed')),
    storage_key text,
    vocab_size integer CHECK (vocab_size > 0),
    separator text,
    separator_id integer CHECK (separator_id >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (corpus_id, spec_sha256),
    CHECK ((state = 'ready') = (storage_key IS NOT NULL AND vocab_size IS NOT NULL AND separator_id IS NOT NULL))
);
COMMENT ON TABLE tokenizers IS 'tokenizers, trained or copied; equal corpus and settings share one';
COMMENT ON COLUMN tokenizers.id IS 'identity';
COMMENT ON COLUMN tokenizers.corpus_id IS 'the corpus it was trained on';
COMMENT ON COLUMN tokenizers.spec IS 'TokenizerSpec';
COMMENT ON COLUMN tokenizers.spec_sha256 IS 'hash of the settings, for sharing';
COMMENT ON COLUMN tokenizers.state IS 'fitting until tokenizer.json is stored';
COMMENT ON COLUMN tokenizers.problem IS 'why it failed';
COMMENT ON COLUMN tokenizers.storage_key IS 'place of tokenizer.json in the store';
COMMENT ON COLUMN tokenizers.vocab_size IS 'entries';
COMMENT ON COLUMN tokenizers.separator IS 'token between documents';
COMMENT ON COLUMN tokenizers.separator_id IS 'its id';
COMMENT ON COLUMN tokenizers.created_at IS 'when it was asked for';

CREATE TABLE experiments (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'paused', 'completed', 'failed', 'cancelled')),
    problem text,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    owner text NOT NULL,
    corpus_id uuid NOT NULL REFERENCES corpora,
    clustering_id uuid REFERENCES clusterings,
    tokenizer_id uuid REFERENCES tokenizers,
    shard_index jsonb,
    report jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK ((problem IS NOT NULL) = (state = 'failed')),
    CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))),
    CHECK (state <> 'completed' OR report IS NOT NULL)
);
CREATE INDEX experiments_open ON experiments (created_at) WHERE state IN ('running', 'paused');
COMMENT ON TABLE experiments IS 'submissions';
COMMENT ON INDEX experiments_open IS 'the few that the advance loop looks at';
COMMENT ON COLUMN experiments.id IS 'identity';
COMMENT ON COLUMN experiments.name IS 'name for people';
COMMENT ON COLUMN experiments.spec IS 'the submission (ExperimentSpec)';
COMMENT ON COLUMN experiments.state IS 'where it stands';
COMMENT ON COLUMN experiments.problem IS 'why it failed, in sentences';
COMMENT ON COLUMN experiments.priority IS '0 to 100, higher first';
COMMENT ON COLUMN experiments.owner IS 'name of the token that submitted it';
COMMENT ON COLUMN experiments.corpus_id IS 'the corpus';
COMMENT ON COLUMN experiments.clustering_id IS 'the clustering, once asked for';
COMMENT ON COLUMN experiments.tokenizer_id IS 'the tokenizer, once asked for';
COMMENT ON COLUMN experiments.shard_index IS 'ShardIndex, once all files are sharded (the store has the same as index.json)';
COMMENT ON COLUMN experiments.report IS 'Report, once written';
COMMENT ON COLUMN experiments.created_at IS 'when it was submitted';
COMMENT ON COLUMN experiments.finished_at IS 'when it ended';

CREATE TABLE stages (
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    stage text NOT NULL CHECK (stage IN ('discover', 'shard', 'seed', 'branches', 'merge', 'evaluate', 'report')),
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'skipped', 'failed')),
    done bigint NOT NULL DEFAULT 0 CHECK (done >= 0),
    total bigint NOT NULL DEFAULT 0 CHECK (total >= 0),
    unit text NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (experiment_id, stage)
);
COMMENT ON TABLE stages IS 'progress of each experiment by stage, kept by the advance loop';
COMMENT ON COLUMN stages.experiment_id IS 'the experiment';
COMMENT ON COLUMN stages.stage IS 'the stage';
COMMENT ON COLUMN stages.state IS 'where it stands';
COMMENT ON COLUMN stages.done IS 'units done';
COMMENT ON COLUMN stages.total IS 'units in all, 0 while unknown';
COMMENT ON COLUMN stages.unit IS 'the unit, for people';
COMMENT ON COLUMN stages.started_at IS 'when it began';
COMMENT ON COLUMN stages.finished_at IS 'when it ended';

CREATE TABLE branches (
    id uuid PRIMARY KEY,
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    ordinal integer NOT NULL,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('seed', 'expert', 'dense', 'random', 'chain', 'tree', 'average')),
    domain integer,
    parent_id uuid REFERENCES branches,
    state text NOT NULL CHECK (state IN ('waiting', 'queued', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    problem text,
    mixture jsonb,
    training jsonb,
    steps bigint NOT NULL CHECK (steps >= 0),
    batch_tokens bigint NOT NULL CHECK (batch_tokens >= 0),
    step bigint NOT NULL DEFAULT 0 CHECK (step >= 0),
    loss double precision,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (experiment_id, name)
);
COMMENT ON TABLE branches IS 'training lineages; parents before children by ordinal';
COMMENT ON COLUMN branches.id IS 'identity';
COMMENT ON COLUMN branches.experiment_id IS 'the experiment';
COMMENT ON COLUMN branches.ordinal IS 'place in the plan';
COMMENT ON COLUMN branches.name IS 'name, unique in the experiment';
COMMENT ON COLUMN branches.role IS 'what it is for';
COMMENT ON COLUMN branches.domain IS 'its domain, for experts and links of chains';
COMMENT ON COLUMN branches.parent_id IS 'the branch it starts from';
COMMENT ON COLUMN branches.state IS 'where it stands';
COMMENT ON COLUMN branches.problem IS 'why it failed or was cancelled';
COMMENT ON COLUMN branches.mixture IS 'Mixture it draws from';
COMMENT ON COLUMN branches.training IS 'TrainingSpec, the group''s differences laid over the experiment''s';
COMMENT ON COLUMN branches.steps IS 'optimiser steps in all';
COMMENT ON COLUMN branches.batch_tokens IS 'tokens of one step';
COMMENT ON COLUMN branches.step IS 'last reported step on the current lineage';
COMMENT ON COLUMN branches.loss IS 'last reported loss';
COMMENT ON COLUMN branches.created_at IS 'when it was planned';

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    session bigint NOT NULL CHECK (session > 0),
    host text NOT NULL,
    version text NOT NULL,
    slots jsonb NOT NULL,
    capabilities jsonb NOT NULL,
    labels jsonb NOT NULL,
    mode text NOT NULL DEFAULT 'enabled' CHECK (mode IN ('enabled', 'draining', 'disabled')),
    lost boolean NOT NULL DEFAULT false,
    memory_used_bytes bigint NOT NULL DEFAULT 0,
    cpu_share double precision NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE workers IS 'daemons';
COMMENT ON COLUMN workers.id IS 'identity';
COMMENT ON COLUMN workers.name IS 'name, unique; the same name enrols the same worker';
COMMENT ON COLUMN workers.session IS 'grows with each enrolment; an old session is refused';
COMMENT ON COLUMN workers.host IS 'host name of the node';
COMMENT ON COLUMN workers.version IS 'version of the program';
COMMENT ON COLUMN workers.slots IS 'SlotInfo of each slot';
COMMENT ON COLUMN workers.capabilities IS 'kinds of jobs it can run';
COMMENT ON COLUMN workers.labels IS 'free labels';
COMMENT ON COLUMN workers.mode IS 'whether it is given new jobs';
COMMENT ON COLUMN workers.lost IS 'declared lost; cleared when it is heard of again';
COMMENT ON COLUMN workers.memory_used_bytes IS 'memory of its machine in use';
COMMENT ON COLUMN workers.cpu_share IS 'CPU of its machine in use, 0 to 1';
COMMENT ON COLUMN workers.seen_at IS 'last enrolment, poll or heartbeat';

CREATE TABLE evaluations (
    id uuid PRIMARY KEY,
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    branch_id uuid REFERENCES branches ON DELETE CASCADE,
    checkpoint_id uuid,
    title text NOT NULL,
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (experiment_id, title),
    CHECK ((branch_id IS NULL) = (checkpoint_id IS NULL))
);
COMMENT ON TABLE evaluations IS 'scores of a checkpoint, or of several used together (no branch)';
COMMENT ON COLUMN evaluations.id IS 'identity';
COMMENT ON COLUMN evaluations.experiment_id IS 'the experiment';
COMMENT ON COLUMN evaluations.branch_id IS 'the branch scored';
COMMENT ON COLUMN evaluations.checkpoint_id IS 'the checkpoint scored';
COMMENT ON COLUMN evaluations.title IS 'branch name, ensemble or random_ensemble';
COMMENT ON COLUMN evaluations.result IS 'EvaluateResult or EnsembleResult, once done';
COMMENT ON COLUMN evaluations.created_at IS 'when it was asked for';

CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    branch_id uuid REFERENCES branches ON DELETE CASCADE,
    evaluation_id uuid REFERENCES evaluations ON DELETE CASCADE,
    key text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('shard', 'train', 'evaluate', 'merge', 'ensemble')),
    title text NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    priority smallint NOT NULL,
    slots smallint NOT NULL CHECK (slots > 0),
    remaining bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    attempt_id uuid,
    worker_id uuid REFERENCES workers,
    lease_expires_at timestamptz,
    command text NOT NULL DEFAULT 'continue' CHECK (command IN ('continue', 'release', 'cancel')),
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    tokens_per_second double precision NOT NULL DEFAULT 0,
    retries_user integer NOT NULL DEFAULT 0,
    retries_infra integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    result jsonb,
    problem text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (experiment_id, key),
    CHECK ((state = 'running') = (attempt_id IS NOT NULL AND worker_id IS NOT NULL AND lease_expires_at IS NOT NULL)),
    CHECK (state <> 'completed' OR result IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX jobs_open ON jobs (priority DESC, created_at) WHERE state IN ('queued', 'running', 'paused');
COMMENT ON TABLE jobs IS 'units of work; the lease lives in the row, so one live lease per job is a matter of course';
COMMENT ON INDEX jobs_open IS 'the few that the schedule and expire loops look at';
COMMENT ON COLUMN jobs.id IS 'identity';
COMMENT ON COLUMN jobs.experiment_id IS 'the experiment';
COMMENT ON COLUMN jobs.branch_id IS 'the branch, for training and merging';
COMMENT ON COLUMN jobs.evaluation_id IS 'the evaluation, for scoring';
COMMENT ON COLUMN jobs.key IS 'what it is in its experiment (shard/3, train/dense): asking twice creates it once';
COMMENT ON COLUMN jobs.kind IS 'kind of work';
COMMENT ON COLUMN jobs.title IS 'what it does, for people';
COMMENT ON COLUMN jobs.spec IS 'JobSpec';
COMMENT ON COLUMN jobs.state IS 'where it stands';
COMMENT ON COLUMN jobs.priority IS 'of the experiment; higher first';
COMMENT ON COLUMN jobs.slots IS 'slots of one worker that it takes';
COMMENT ON COLUMN jobs.remaining IS 'tokens left, so that the longest goes first';
COMMENT ON COLUMN jobs.fence IS 'fencing token of the last grant';
COMMENT ON COLUMN jobs.attempt_id IS 'the attempt that holds the lease';
COMMENT ON COLUMN jobs.worker_id IS 'the worker that holds the lease';
COMMENT ON COLUMN jobs.lease_expires_at IS 'end of the lease unless a heartbeat renews it';
COMMENT ON COLUMN jobs.command IS 'what the next heartbeat tells the attempt';
COMMENT ON COLUMN jobs.done IS 'units done, by the last heartbeat';
COMMENT ON COLUMN jobs.total IS 'units in all';
COMMENT ON COLUMN jobs.tokens_per_second IS 'by the last heartbeat';
COMMENT ON COLUMN jobs.retries_user IS 'failures paid by the experiment''s own budget';
COMMENT ON COLUMN jobs.retries_infra IS 'failures paid by the infrastructure''s budget';
COMMENT ON COLUMN jobs.not_before IS 'not granted before then (back-off)';
COMMENT ON COLUMN jobs.result IS 'JobResult';
COMMENT ON COLUMN jobs.problem IS 'why it was given up';
COMMENT ON COLUMN jobs.created_at IS 'when it was asked for';

CREATE TABLE attempts (
    id uuid PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    branch_id uuid REFERENCES branches ON DELETE CASCADE,
    fence bigint NOT NULL CHECK (fence > 0),
    worker_id uuid NOT NULL REFERENCES workers,
    slots jsonb NOT NULL,
    step_start bigint,
    resume_verified boolean,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    outcome jsonb,
    delivered boolean NOT NULL DEFAULT false,
    UNIQUE (job_id, fence),
    CHECK (outcome IS NULL OR finished_at IS NOT NULL)
);
CREATE INDEX attempts_branch ON attempts (branch_id, fence);
COMMENT ON TABLE attempts IS 'executions of jobs';
COMMENT ON INDEX attempts_branch IS 'segments of a branch''s curve';
COMMENT ON COLUMN attempts.id IS 'identity';
COMMENT ON COLUMN attempts.job_id IS 'the job';
COMMENT ON COLUMN attempts.branch_id IS 'the branch, for training';
COMMENT ON COLUMN attempts.fence IS 'its fencing token';
COMMENT ON COLUMN attempts.worker_id IS 'the worker';
COMMENT ON COLUMN attempts.slots IS 'slots taken';
COMMENT ON COLUMN attempts.step_start IS 'step it started from; points of earlier fences beyond it are superseded';
COMMENT ON COLUMN attempts.resume_verified IS 'verdict of the exact-resume check';
COMMENT ON COLUMN attempts.started_at IS 'when it was granted';
COMMENT ON COLUMN attempts.finished_at IS 'when it ended';
COMMENT ON COLUMN attempts.outcome IS 'Outcome';
COMMENT ON COLUMN attempts.delivered IS 'handed to the worker by a poll';

CREATE TABLE checkpoints (
    id uuid PRIMARY KEY,
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    branch_id uuid NOT NULL REFERENCES branches ON DELETE CASCADE,
    fence bigint NOT NULL,
    step bigint NOT NULL CHECK (step >= 0),
    folder text NOT NULL UNIQUE,
    manifest_sha256 text NOT NULL,
    meta jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (branch_id, step, fence)
);
CREATE INDEX checkpoints_experiment ON checkpoints (experiment_id, created_at);
COMMENT ON TABLE checkpoints IS 'committed checkpoints; the latest is a query, never a pointer';
COMMENT ON INDEX checkpoints_experiment IS 'list of an experiment';
COMMENT ON COLUMN checkpoints.id IS 'identity, chosen by the worker so that a repeated commit is the same commit';
COMMENT ON COLUMN checkpoints.experiment_id IS 'the experiment';
COMMENT ON COLUMN checkpoints.branch_id IS 'the branch';
COMMENT ON COLUMN checkpoints.fence IS 'fence of the attempt that wrote it';
COMMENT ON COLUMN checkpoints.step IS 'steps of the branch so far';
COMMENT ON COLUMN checkpoints.folder IS 'folder in the store';
COMMENT ON COLUMN checkpoints.manifest_sha256 IS 'SHA-256 of manifest.json';
COMMENT ON COLUMN checkpoints.meta IS 'CheckpointMeta';
COMMENT ON COLUMN checkpoints.created_at IS 'when it was committed';

CREATE TABLE metric_batches (
    branch_id uuid NOT NULL REFERENCES branches ON DELETE CASCADE,
    fence bigint NOT NULL,
    step_first bigint NOT NULL,
    step_last bigint NOT NULL,
    steps bigint[] NOT NULL,
    tokens bigint[] NOT NULL,
    at_ms bigint[] NOT NULL,
    series jsonb NOT NULL,
    PRIMARY KEY (branch_id, fence, step_first),
    CHECK (cardinality(steps) > 0 AND cardinality(steps) = cardinality(tokens) AND cardinality(steps) = cardinality(at_ms))
);
CREATE INDEX metric_batches_steps ON metric_batches (branch_id, step_first);
COMMENT ON INDEX metric_batches_steps IS 'a few points of a long curve without reading it whole';
COMMENT ON TABLE metric_batches IS 'metric points as workers send them: arrays, one row a batch';
COMMENT ON COLUMN metric_batches.branch_id IS 'the branch';
COMMENT ON COLUMN metric_batches.fence IS 'fence of the attempt';
COMMENT ON COLUMN metric_batches.step_first IS 'first step; with branch and fence the identity, so a repeated batch is the same';
COMMENT ON COLUMN metric_batches.step_last IS 'last step';
COMMENT ON COLUMN metric_batches.steps IS 'optimiser steps, ascending';
COMMENT ON COLUMN metric_batches.tokens IS 'tokens of the branch at each step';
COMMENT ON COLUMN metric_batches.at_ms IS 'milliseconds since the Unix epoch, worker''s clock';
COMMENT ON COLUMN metric_batches.series IS 'values by metric name, each as long as steps; null where not finite';

CREATE TABLE log_batches (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempt_id uuid NOT NULL REFERENCES attempts ON DELETE CASCADE,
    branch_id uuid REFERENCES branches ON DELETE CASCADE,
    line_first bigint NOT NULL,
    lines jsonb NOT NULL,
    UNIQUE (attempt_id, line_first)
);
CREATE INDEX log_batches_branch ON log_batches (branch_id, id);
COMMENT ON TABLE log_batches IS 'lines of attempts'' logs';
COMMENT ON INDEX log_batches_branch IS 'log of a branch over its attempts';
COMMENT ON COLUMN log_batches.id IS 'cursor of readers';
COMMENT ON COLUMN log_batches.attempt_id IS 'the attempt';
COMMENT ON COLUMN log_batches.branch_id IS 'its branch';
COMMENT ON COLUMN log_batches.line_first IS 'number of the first line; a repeated batch is the same';
COMMENT ON COLUMN log_batches.lines IS 'LogLine array';

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    level text NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    text text NOT NULL,
    experiment_id uuid REFERENCES experiments ON DELETE CASCADE,
    branch_id uuid REFERENCES branches ON DELETE CASCADE,
    worker_id uuid REFERENCES workers ON DELETE CASCADE,
    step bigint
);
CREATE INDEX events_experiment ON events (experiment_id, id);
CREATE INDEX events_branch ON events (branch_id, id);
COMMENT ON TABLE events IS 'what happened, in sentences for people';
COMMENT ON INDEX events_experiment IS 'events of an experiment';
COMMENT ON INDEX events_branch IS 'marks on the axis of a branch''s curve';
COMMENT ON COLUMN events.id IS 'cursor of readers';
COMMENT ON COLUMN events.at IS 'when';
COMMENT ON COLUMN events.kind IS 'word for scripts';
COMMENT ON COLUMN events.level IS 'how much it matters';
COMMENT ON COLUMN events.text IS 'the sentence';
COMMENT ON COLUMN events.experiment_id IS 'the experiment concerned';
COMMENT ON COLUMN events.branch_id IS 'the branch concerned';
COMMENT ON COLUMN events.worker_id IS 'the worker concerned';
COMMENT ON COLUMN events.step IS 'the step concerned';
