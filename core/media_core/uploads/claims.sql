-- The statements of every request that adds to an upload, as functions: each one round trip, planned once a session.
-- `claims.py` states the rules. A migration creates them.

-- Takes the claim. No row where somebody else has it, where there is no such upload of `_owner`, or where it has ended.
CREATE OR REPLACE FUNCTION upload_claim(_upload_id text, _owner text, _claim text, _lifetime interval)
RETURNS TABLE (
    declared text, filename text, claimed_type text, tenant_scope boolean, room_id text, received bigint, pieces integer,
    sealed integer, length bigint, answer jsonb, concat text, expires_at timestamptz, reserved bigint, last_name text,
    last_size bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _upload upload;
    _reserved bigint;
    _name text;
    _size bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- `sealed` is for pods of an earlier release beside this one.
    UPDATE upload SET claim = _claim, claimed_until = now() + _lifetime,
        sealed = CASE WHEN claim IS NULL THEN sealed ELSE pieces END
    WHERE upload_id = _upload_id AND owner = _owner AND (claim IS NULL OR claimed_until <= now()) AND NOT ending
        AND expires_at > now()
    RETURNING * INTO _upload;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- By further statements: this one may have waited for the last claim, and sees the pieces as they were before.
    SELECT name, size INTO _name, _size FROM upload_piece WHERE upload_id = _upload_id ORDER BY number DESC LIMIT 1;
    SELECT bytes INTO _reserved FROM reservation WHERE reservation_id = _upload_id;
    RETURN QUERY SELECT _upload.declared, _upload.filename, _upload.claimed_type, _upload.tenant_scope, _upload.room_id,
        _upload.received, _upload.pieces, _upload.sealed, _upload.length, _upload.answer, _upload.concat,
        _upload.expires_at, coalesce(_reserved, 0), _name, _size;
END $$;

-- Makes new pieces count, of which the first has the number `_first`, while `_claim` is held. `_received`: bytes so far.
-- `_let_go`: the claim ends. `_relaxed`: a crash of the server may take it back. Returns until when the upload can go
-- on; NULL: somebody else has the claim.
CREATE OR REPLACE FUNCTION upload_keep(
    _upload_id text, _claim text, _received bigint, _first integer, _names text[], _sizes bigint[], _let_go boolean,
    _relaxed boolean, _claim_lifetime interval, _lifetime interval, _reservation_lifetime interval
) RETURNS timestamptz LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _expires_at timestamptz := now() + _lifetime;
BEGIN
    IF _relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    UPDATE upload SET received = _received, pieces = _first + cardinality(_names),
        claim = CASE WHEN _let_go THEN NULL ELSE claim END,
        claimed_until = CASE WHEN _let_go THEN NULL ELSE now() + _claim_lifetime END, expires_at = _expires_at
    WHERE upload_id = _upload_id AND claim = _claim;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO upload_piece (upload_id, number, name, size)
    SELECT _upload_id, _first + position - 1, name, size
    FROM unnest(_names, _sizes) WITH ORDINALITY AS piece(name, size, position)
    ON CONFLICT (upload_id, number) DO UPDATE SET name = excluded.name, size = excluded.size;
    -- It has to outlive the upload by far, not to the second: most pieces find it so.
    UPDATE reservation SET expires_at = now() + _reservation_lifetime
    WHERE reservation_id = _upload_id AND expires_at < now() + _reservation_lifetime - interval '1 minute';
    RETURN _expires_at;
END $$;
