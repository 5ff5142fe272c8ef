-- Alerts by mail.

ALTER TABLE alerts DROP CONSTRAINT alerts_target_kind_check,
    ADD CONSTRAINT alerts_target_kind_check CHECK (target_kind IN ('webhook', 'slack', 'mail'));
COMMENT ON COLUMN alerts.target_url IS 'the address: whole, it is shown without what may be a secret';
