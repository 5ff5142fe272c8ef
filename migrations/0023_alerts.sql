-- Alerts: who is told of what, and what became of each message. A message is written with its event, in one statement.
CREATE TABLE alerts (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    owner text NOT NULL,
    occasions text[] NOT NULL CHECK (cardinality(occasions) > 0),
    experiment_id uuid REFERENCES experiments ON DELETE CASCADE,
    target_kind text NOT NULL CHECK (target_kind IN ('webhook', 'slack')),
    target_url text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE alerts IS 'who is told of what';
COMMENT ON COLUMN alerts.id IS 'UUID version 7';
COMMENT ON COLUMN alerts.name IS 'for people';
COMMENT ON COLUMN alerts.owner IS 'name of the token that made it';
COMMENT ON COLUMN alerts.occasions IS 'what is told: finished, failed and so on';
COMMENT ON COLUMN alerts.experiment_id IS 'of this experiment only; null for the whole fleet';
COMMENT ON COLUMN alerts.target_kind IS 'what the other side takes';
COMMENT ON COLUMN alerts.target_url IS 'where it goes; part of it is often a secret';
COMMENT ON COLUMN alerts.created_at IS 'when it was made';

CREATE TABLE deliveries (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    alert_id uuid NOT NULL REFERENCES alerts ON DELETE CASCADE,
    event_id bigint REFERENCES events ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    problem text,
    then_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX deliveries_due ON deliveries (then_at) WHERE state = 'waiting';
CREATE INDEX deliveries_alert ON deliveries (alert_id, id);
CREATE INDEX deliveries_event ON deliveries (event_id);
COMMENT ON TABLE deliveries IS 'messages of alerts; they go with their events';
COMMENT ON COLUMN deliveries.id IS 'in the order of arrival';
COMMENT ON COLUMN deliveries.alert_id IS 'the alert';
COMMENT ON COLUMN deliveries.event_id IS 'what happened; null where somebody tried the alert';
COMMENT ON COLUMN deliveries.state IS 'what became of it';
COMMENT ON COLUMN deliveries.tries IS 'how often it was sent';
COMMENT ON COLUMN deliveries.problem IS 'why the last time failed';
COMMENT ON COLUMN deliveries.then_at IS 'when it is sent again, or was taken';
COMMENT ON COLUMN deliveries.created_at IS 'when it was written';
COMMENT ON INDEX deliveries_due IS 'what is sent next';
COMMENT ON INDEX deliveries_alert IS 'messages of an alert';
COMMENT ON INDEX deliveries_event IS 'messages go with their event';
