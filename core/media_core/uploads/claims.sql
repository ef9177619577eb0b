-- The first statement of every request that adds to an upload, as a function: one round trip, planned once a session.
-- `claims.py` states the rules. A migration creates it.

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
