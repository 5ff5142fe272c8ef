-- The store has an identity, so that an unmounted folder does not pass for a store that lost everything.
CREATE TABLE store_identity (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL
);
COMMENT ON TABLE store_identity IS 'The store that this database belongs to; at most one row';
COMMENT ON COLUMN store_identity.one IS 'true: there is one row at most';
COMMENT ON COLUMN store_identity.id IS 'id in the object senmon-store.json of the store';
