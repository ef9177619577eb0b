-- The statements of a content's life, as functions: one round trip each, planned once a session.
-- `life.py` calls them and states the rules: states, lock order, errors. A migration creates them.
--
-- Errors that the caller understands (the whole statement is rolled back):
--   MC001  infected: these bytes are known to be infected, and are not accepted
--   MC002  again: the reservation has ended, or the content is being removed; begin anew, put again
--   MC003  key reused: this Idempotency-Key was used for another request
--   MC004  no more files: the tenant has as many items as it may have

-- The categories by which a client may filter a room's list.
CREATE OR REPLACE FUNCTION content_category(_mime_type text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN _mime_type LIKE 'image/%' THEN 'image' WHEN _mime_type LIKE 'audio/%' THEN 'audio'
        WHEN _mime_type LIKE 'video/%' THEN 'video' ELSE 'document' END
$$;

-- An item's category does not change: its content keeps its type as long as it has items.
CREATE OR REPLACE FUNCTION room_file_category() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT content_category(mime_type) INTO NEW.category FROM media JOIN blob USING (sha256)
    WHERE media_id = NEW.media_id;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER room_file_category BEFORE INSERT ON room_file FOR EACH ROW WHEN (NEW.category IS NULL)
EXECUTE FUNCTION room_file_category();

-- Reserves bytes for an upload in flight. `_sha256`: the content that must not be removed until the reservation ends;
-- null while the hash is not known. False: the quota has no room for them, or for another item. An item is counted when
-- it is added: asking for its room here spares the bytes of an upload that would be refused then. Content that stands
-- gets no item, but a thumbnail.
CREATE OR REPLACE FUNCTION content_reserve(
    _reservation text, _sha256 text, _bytes bigint, _lifetime interval, _over_quota boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_new boolean;
    had bigint := 0;
    more bigint;
BEGIN
    -- Its row comes first: so two concurrent statements of one upload count its bytes once, and an expired reservation
    -- that is moved forward here is not given back below.
    INSERT INTO reservation (reservation_id, sha256, bytes, expires_at)
    VALUES (_reservation, _sha256, _bytes, now() + _lifetime) ON CONFLICT (reservation_id) DO NOTHING;
    is_new := FOUND;
    IF NOT is_new THEN
        UPDATE reservation SET sha256 = coalesce(_sha256, sha256), expires_at = now() + _lifetime
        WHERE reservation_id = _reservation RETURNING bytes INTO had;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'again' USING ERRCODE = 'MC002';
        END IF;
    END IF;
    more := greatest(0, _bytes - had);
    FOR attempt IN 1..2 LOOP
        UPDATE usage SET reserved_bytes = reserved_bytes + more
        WHERE _over_quota OR more = 0 OR (
            stored_bytes + reserved_bytes + more <= max_bytes
            AND (max_items IS NULL OR items < max_items
                OR EXISTS (SELECT FROM blob WHERE sha256 = _sha256 AND doomed_at IS NULL)));
        IF FOUND THEN
            IF NOT is_new AND more > 0 THEN
                UPDATE reservation SET bytes = had + more WHERE reservation_id = _reservation;
            END IF;
            RETURN true;
        END IF;
        EXIT WHEN attempt = 2 OR content_release_expired() = 0;
    END LOOP;
    IF is_new THEN
        DELETE FROM reservation WHERE reservation_id = _reservation;
    END IF;
    RETURN false;
END $$;

-- Gives back the bytes of expired reservations, at most 500 at a time. Returns how many there were.
CREATE OR REPLACE FUNCTION content_release_expired() RETURNS bigint LANGUAGE sql AS $$
    WITH stale AS (
        SELECT reservation_id FROM reservation WHERE expires_at < now()
        ORDER BY reservation_id LIMIT 500 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM reservation USING stale WHERE reservation.reservation_id = stale.reservation_id RETURNING bytes
    ), total AS (
        SELECT count(*) AS n, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
    ), given_back AS (
        UPDATE usage SET reserved_bytes = reserved_bytes - total.bytes FROM total WHERE total.n > 0
    )
    SELECT n FROM total
$$;

-- Ends a reservation without storing anything; no-op if it has ended.
CREATE OR REPLACE FUNCTION content_release(_reservation text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    given_back bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM reservation WHERE reservation_id = _reservation RETURNING bytes INTO given_back;
    IF given_back > 0 THEN
        UPDATE usage SET reserved_bytes = reserved_bytes - given_back;
    END IF;
END $$;

-- Ends all reservations of this content, because its removal has ended or is taken over: uploads that put its object
-- meanwhile have to put it again.
CREATE OR REPLACE FUNCTION content_end_reservations(_sha256 text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    given_back bigint;
BEGIN
    WITH ended AS (DELETE FROM reservation WHERE sha256 = _sha256 RETURNING bytes)
    SELECT sum(bytes) INTO given_back FROM ended;
    IF given_back > 0 THEN
        UPDATE usage SET reserved_bytes = reserved_bytes - given_back;
    END IF;
END $$;

-- The published answer of an upload.
CREATE OR REPLACE FUNCTION content_answer(_media_id text, _content blob) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'media_id', _media_id, 'sha256', _content.sha256, 'size', _content.size, 'mime_type', _content.mime_type,
        'thumbnail_id', CASE WHEN _content.thumbnail_status IN ('pending', 'ready')
                        THEN replace(_media_id, 'med-', 'med-thumb-') END,
        'width', _content.width, 'height', _content.height, 'scan_status', _content.scan_status)
$$;

-- The answer that was given under this key in the last 24 hours; null: the key may be used. Raises MC003.
CREATE OR REPLACE FUNCTION content_earlier(_subject text, _key text, _fingerprint text)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    earlier record;
BEGIN
    SELECT fingerprint, answer INTO earlier FROM idempotency
    WHERE subject = _subject AND key = _key AND created_at >= now() - interval '24 hours';
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF earlier.fingerprint <> _fingerprint THEN
        RAISE EXCEPTION 'key reused' USING ERRCODE = 'MC003';
    END IF;
    RETURN earlier.answer;
END $$;

-- Adds an item to a content that has a row, with its room, key and usage. The caller has written content, reservation
-- and jobs. `_folded`: its name as searches compare it (`folding.py`); null where a pod of the version before calls.
-- A canary is added however many items there are. Raises MC004.
CREATE OR REPLACE FUNCTION content_add_item(
    _content blob, _media_id text, _filename text, _claimed_type text, _subject text, _tenant_scope boolean,
    _room_id text, _key text, _charge bigint, _reserved bigint, _is_new boolean, _folded text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := content_answer(_media_id, _content);
BEGIN
    INSERT INTO media (media_id, sha256, filename, claimed_type, uploaded_by, tenant_scope, content_size, category,
        folded)
    VALUES (_media_id, _content.sha256, _filename, _claimed_type, _subject, _tenant_scope, _content.size,
        content_category(_content.mime_type), _folded);
    IF _room_id IS NOT NULL THEN
        INSERT INTO room_file (room_id, media_id, added_by, category)
        VALUES (_room_id, _media_id, _subject, content_category(_content.mime_type));
    END IF;
    IF _key IS NOT NULL THEN
        UPDATE idempotency SET answer = given WHERE subject = _subject AND key = _key;
    END IF;
    UPDATE usage SET stored_bytes = stored_bytes + _charge, reserved_bytes = reserved_bytes - _reserved,
        objects = objects + _is_new::integer,
        object_bytes = object_bytes + CASE WHEN _is_new THEN _content.size ELSE 0 END,
        items = items + 1, item_bytes = item_bytes + _content.size
    WHERE max_items IS NULL OR items < max_items OR EXISTS (SELECT FROM canary WHERE sha256 = _content.sha256);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no more files' USING ERRCODE = 'MC004';
    END IF;
    RETURN given;
END $$;

-- Takes the key for this request, or returns the answer already given under it. Waits for a concurrent request with
-- the same key.
CREATE OR REPLACE FUNCTION content_take_key(_subject text, _key text, _fingerprint text)
RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency (subject, key, fingerprint) VALUES (_subject, _key, _fingerprint)
    ON CONFLICT (subject, key) DO UPDATE SET fingerprint = excluded.fingerprint, answer = NULL, created_at = now()
    WHERE idempotency.created_at < now() - interval '24 hours';
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN content_earlier(_subject, _key, _fingerprint);
END $$;

-- For an upload whose hash is known: adds the item if the content is there, and reserves otherwise. `stored`,
-- `replayed`: done, and durable. `reserved`: put the object, then commit. `full`, `removing`: nothing was done.
-- Raises MC001, MC002, MC003, MC004.
CREATE OR REPLACE FUNCTION content_begin(
    _reservation text, _sha256 text, _bytes bigint, _lifetime interval, _over_quota boolean, _media_id text,
    _filename text, _claimed_type text, _subject text, _tenant_scope boolean, _room_id text, _key text,
    _fingerprint text, OUT state text, OUT answer jsonb, _folded text DEFAULT NULL
) LANGUAGE plpgsql AS $$
DECLARE
    content blob;
    given_back bigint := 0;
BEGIN
    SELECT * INTO content FROM blob WHERE sha256 = _sha256;
    IF FOUND AND content.scan_status <> 'infected' AND content.doomed_at IS NULL AND content.lost_at IS NULL THEN
        IF _key IS NOT NULL THEN
            answer := content_take_key(_subject, _key, _fingerprint);
        END IF;
        IF answer IS NULL THEN
            -- Uploads that add an item share this lock. A deletion waits for it before it counts the items left.
            SELECT * INTO content FROM blob WHERE sha256 = _sha256 AND doomed_at IS NULL FOR KEY SHARE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'again' USING ERRCODE = 'MC002';
            END IF;
            IF content.scan_status = 'infected' THEN
                RAISE EXCEPTION 'infected' USING ERRCODE = 'MC001';
            END IF;
        END IF;
        DELETE FROM reservation WHERE reservation_id = _reservation RETURNING bytes INTO given_back;
        IF answer IS NULL THEN
            state := 'stored';
            answer := content_add_item(content, _media_id, _filename, _claimed_type, _subject, _tenant_scope,
                _room_id, _key, 0, coalesce(given_back, 0), false, _folded);
        ELSE
            state := 'replayed';
            UPDATE usage SET reserved_bytes = reserved_bytes - given_back WHERE given_back > 0;
        END IF;
        RETURN;
    END IF;
    -- Losing the rest in a crash costs nothing, so it does not wait for the disk.
    PERFORM set_config('synchronous_commit', 'off', true);
    IF _key IS NOT NULL THEN
        answer := content_earlier(_subject, _key, _fingerprint);
        IF answer IS NOT NULL AND content.lost_at IS NULL THEN
            state := 'replayed';
            PERFORM content_release(_reservation);
            RETURN;
        END IF;
        answer := NULL;  -- `content_commit` gives it, once the bytes are there again
    END IF;
    IF content.scan_status = 'infected' THEN
        RAISE EXCEPTION 'infected' USING ERRCODE = 'MC001';
    END IF;
    IF content.removing_until IS NOT NULL THEN
        -- The remover may be dead, and nobody knows what it has removed: all that was put before has to be put again.
        UPDATE blob SET removing_until = NULL
        WHERE sha256 = _sha256 AND doomed_at IS NOT NULL AND scan_status <> 'infected' AND removing_until <= now();
        IF NOT FOUND THEN
            state := 'removing';
            RETURN;
        END IF;
        PERFORM content_end_reservations(_sha256);
    END IF;
    -- What was reserved before may have been overtaken by other items. Then nothing has to be put.
    IF NOT _over_quota AND EXISTS (SELECT FROM usage WHERE items >= max_items) THEN
        state := 'full';
        RETURN;
    END IF;
    -- Bytes of lost content are counted already.
    IF content_reserve(_reservation, _sha256, _bytes, _lifetime,
        _over_quota OR (content.lost_at IS NOT NULL AND content.doomed_at IS NULL)) THEN
        state := 'reserved';
    ELSE
        state := 'full';
    END IF;
END $$;

-- To be called once the objects of lost content were put again, with its row locked: nothing is lost any more. Its
-- thumbnail is the one that was put, or one that a worker is to make. Returns by how many bytes the content has grown.
CREATE OR REPLACE FUNCTION content_restored(
    _content blob, _thumbnail_status text, _thumbnail_sha256 text, _thumbnail_size bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    UPDATE blob SET lost_at = NULL WHERE sha256 = _content.sha256;
    IF _thumbnail_status NOT IN ('ready', 'pending') THEN
        RETURN 0;
    END IF;
    UPDATE blob SET thumbnail_status = _thumbnail_status, thumbnail_sha256 = _thumbnail_sha256,
        thumbnail_size = _thumbnail_size
    WHERE sha256 = _content.sha256;
    RETURN _thumbnail_size - _content.thumbnail_size;
END $$;

-- After the object was put: writes the content's row, its item and its jobs. Raises MC001, MC002, MC003, MC004.
CREATE OR REPLACE FUNCTION content_commit(
    _reservation text, _sha256 text, _size bigint, _mime_type text, _width integer, _height integer,
    _duration double precision, _details jsonb, _thumbnail_status text, _thumbnail_sha256 text,
    _thumbnail_size bigint, _media_id text, _filename text, _claimed_type text, _subject text, _tenant_scope boolean, _room_id text,
    _key text, _fingerprint text, _scan_job text, _scan_owner text, _scan_priority integer, _thumbnail_job text,
    _request_id text, OUT state text, OUT answer jsonb, _folded text DEFAULT NULL
) LANGUAGE plpgsql AS $$
DECLARE
    content blob;
    reserved bigint;
    charge bigint := 0;
    is_new boolean;
    was_lost boolean;
BEGIN
    IF _key IS NOT NULL THEN
        answer := content_take_key(_subject, _key, _fingerprint);
        IF answer IS NOT NULL THEN
            state := 'replayed';
            SELECT * INTO content FROM blob
            WHERE sha256 = _sha256 AND lost_at IS NOT NULL AND doomed_at IS NULL AND scan_status <> 'infected'
                AND _reservation IN (SELECT reservation_id FROM reservation WHERE sha256 = _sha256)
            FOR NO KEY UPDATE;
            IF FOUND THEN
                charge := content_restored(content, _thumbnail_status, _thumbnail_sha256, _thumbnail_size);
            END IF;
            PERFORM content_release(_reservation);
            UPDATE usage SET stored_bytes = stored_bytes + charge WHERE charge <> 0;
            RETURN;
        END IF;
    END IF;
    LOOP
        INSERT INTO blob (sha256, size, mime_type, width, height, duration, details, thumbnail_status,
            thumbnail_sha256, thumbnail_size)
        VALUES (_sha256, _size, _mime_type, _width, _height, _duration, _details, _thumbnail_status,
            _thumbnail_sha256, _thumbnail_size)
        ON CONFLICT (sha256) DO NOTHING RETURNING * INTO content;
        is_new := FOUND;
        EXIT WHEN is_new;
        SELECT * INTO content FROM blob WHERE sha256 = _sha256 FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF content.scan_status = 'infected' THEN
        RAISE EXCEPTION 'infected' USING ERRCODE = 'MC001';
    END IF;
    -- Also if that claim has expired: its holder may have removed what this upload put. `content_begin` takes it over.
    IF content.removing_until IS NOT NULL THEN
        RAISE EXCEPTION 'again' USING ERRCODE = 'MC002';
    END IF;
    IF content.doomed_at IS NOT NULL THEN
        UPDATE blob SET size = _size, mime_type = _mime_type, width = _width, height = _height, duration = _duration,
            details = _details, thumbnail_status = _thumbnail_status, thumbnail_sha256 = _thumbnail_sha256,
            thumbnail_size = _thumbnail_size, scan_status = 'pending', scan_detail = NULL, scan_engine = NULL,
            scanned_at = NULL, doomed_at = NULL, remove_after = NULL, removing_until = NULL, lost_at = NULL,
            created_at = now()
        WHERE sha256 = _sha256 RETURNING * INTO content;
        is_new := true;
    END IF;
    was_lost := content.lost_at IS NOT NULL;
    IF is_new THEN
        charge := _size + _thumbnail_size;
    ELSIF was_lost THEN
        charge := content_restored(content, _thumbnail_status, _thumbnail_sha256, _thumbnail_size);
        SELECT * INTO content FROM blob WHERE sha256 = _sha256;
    END IF;
    -- A reservation that does not name the content has not prevented its removal.
    DELETE FROM reservation WHERE reservation_id = _reservation AND sha256 = _sha256 RETURNING bytes INTO reserved;
    IF reserved IS NULL OR reserved < charge THEN
        RAISE EXCEPTION 'again' USING ERRCODE = 'MC002';
    END IF;
    IF (is_new OR (was_lost AND content.scan_status IN ('pending', 'error'))) AND (SELECT scan_enabled FROM policy) THEN
        INSERT INTO job (job_id, kind, priority, owner, dedupe_key, payload, request_id)
        VALUES (_scan_job, 'scan', _scan_priority, _scan_owner, _sha256, jsonb_build_object('sha256', _sha256),
            _request_id)
        ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING;
    END IF;
    IF (is_new OR was_lost) AND _thumbnail_status = 'pending' THEN
        INSERT INTO job (job_id, kind, dedupe_key, payload, request_id)
        VALUES (_thumbnail_job, 'thumbnail', _sha256, jsonb_build_object('sha256', _sha256), _request_id)
        ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING;
    END IF;
    state := CASE WHEN is_new THEN 'new' ELSE 'stored' END;
    answer := content_add_item(content, _media_id, _filename, _claimed_type, _subject, _tenant_scope, _room_id, _key,
        charge, reserved, is_new, _folded);
END $$;

-- Deletes one item. `absent`: there is none; `deleted`; `marked`: it was the last, and the content is to be removed.
-- `_forget_key`: the Idempotency-Key whose answer is deleted too.
CREATE OR REPLACE FUNCTION content_delete_item(
    _media_id text, _forget_key text, OUT state text, OUT content_sha256 text
) LANGUAGE plpgsql AS $$
DECLARE
    item media;
    content blob;
BEGIN
    state := 'absent';
    SELECT * INTO item FROM media WHERE media_id = _media_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF _forget_key IS NOT NULL THEN
        DELETE FROM idempotency
        WHERE subject = item.uploaded_by AND key = _forget_key AND answer ->> 'media_id' = _media_id;
    END IF;
    SELECT * INTO content FROM blob WHERE sha256 = item.sha256 FOR UPDATE;
    DELETE FROM media WHERE media_id = _media_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO media_tombstone (media_id, uploaded_by) VALUES (_media_id, item.uploaded_by) ON CONFLICT DO NOTHING;
    state := CASE WHEN content_item_gone(content) THEN 'marked' ELSE 'deleted' END;
    content_sha256 := item.sha256;
END $$;

-- To be called after an item was deleted, with the content's row locked: marks the content if none is left. True: it
-- was marked.
CREATE OR REPLACE FUNCTION content_item_gone(_content blob) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    was_last boolean;
BEGIN
    IF _content.scan_status = 'infected' OR _content.doomed_at IS NOT NULL THEN
        RETURN false;  -- usage does not count it any more
    END IF;
    was_last := NOT EXISTS (SELECT FROM media WHERE sha256 = _content.sha256);
    IF was_last THEN
        UPDATE blob SET doomed_at = now(), remove_after = now() WHERE sha256 = _content.sha256;
        -- Its jobs end with it: the same bytes get jobs of their own when they are uploaded again.
        UPDATE job SET dedupe_key = NULL, status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
            finished_at = CASE WHEN status = 'queued' THEN now() END
        WHERE kind IN ('scan', 'thumbnail') AND dedupe_key = _content.sha256 AND status IN ('queued', 'running');
    END IF;
    UPDATE usage SET items = items - 1, item_bytes = item_bytes - _content.size,
        objects = objects - was_last::integer,
        object_bytes = object_bytes - CASE WHEN was_last THEN _content.size ELSE 0 END,
        stored_bytes = stored_bytes - CASE WHEN was_last THEN _content.size + _content.thumbnail_size ELSE 0 END;
    RETURN was_last;
END $$;

-- Claims the removal of a marked content's objects, until the returned time; null: it must not be removed now.
CREATE OR REPLACE FUNCTION content_claim_removal(_sha256 text, _lease interval) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    content blob;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);  -- the deletion that follows is irreversible
    SELECT * INTO content FROM blob WHERE sha256 = _sha256 AND doomed_at IS NOT NULL FOR UPDATE;
    IF NOT FOUND OR content.removing_until > now() OR coalesce(content.remove_after, content.doomed_at) > now() THEN
        RETURN NULL;
    END IF;
    -- Content of a suspicious signature is held, unless its removal began before the suspicion.
    IF content.scan_status = 'infected' AND content.removing_until IS NULL AND EXISTS (
        SELECT FROM suspicion WHERE signature = content.scan_detail AND trusted_at IS NULL
    ) AND coalesce(content.remove_after, content.doomed_at) > content.doomed_at THEN
        RETURN NULL;
    END IF;
    -- Checked while the row is locked: a later reservation finds the claim.
    IF EXISTS (SELECT FROM reservation WHERE sha256 = _sha256 AND expires_at > now()) THEN
        RETURN NULL;
    END IF;
    UPDATE blob SET removing_until = now() + _lease WHERE sha256 = _sha256 RETURNING * INTO content;
    RETURN content.removing_until;
END $$;

-- The same for an object without a row (the claim makes one), or of an infected content, whose row says that it has no
-- object.
CREATE OR REPLACE FUNCTION content_claim_orphan(_sha256 text, _lease interval) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    INSERT INTO blob (sha256, size, mime_type, doomed_at, remove_after, removing_until)
    VALUES (_sha256, 0, 'application/octet-stream', now(), now(), now() + _lease)
    ON CONFLICT (sha256) DO UPDATE
    SET doomed_at = excluded.doomed_at, remove_after = excluded.remove_after, removing_until = excluded.removing_until
    WHERE blob.scan_status = 'infected' AND blob.doomed_at IS NULL
    RETURNING removing_until INTO until;
    IF until IS NOT NULL AND EXISTS (SELECT FROM reservation WHERE sha256 = _sha256 AND expires_at > now()) THEN
        UPDATE blob SET doomed_at = NULL, remove_after = NULL, removing_until = NULL
        WHERE sha256 = _sha256 AND scan_status = 'infected';
        IF NOT FOUND THEN
            DELETE FROM blob WHERE sha256 = _sha256;
        END IF;
        until := NULL;
    END IF;
    RETURN until;
END $$;

-- After the objects were deleted: deletes the row (an infected content keeps it), and ends every reservation of this
-- content, so that uploads that put its object meanwhile put it again. False: the claim has gone to somebody else.
CREATE OR REPLACE FUNCTION content_finish_removal(_sha256 text, _claim timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    content blob;
BEGIN
    SELECT * INTO content FROM blob WHERE sha256 = _sha256 AND removing_until = _claim FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF content.scan_status = 'infected' THEN
        UPDATE blob SET doomed_at = NULL, remove_after = NULL, removing_until = NULL, thumbnail_status = 'none',
            thumbnail_sha256 = NULL, thumbnail_size = 0
        WHERE sha256 = _sha256;
    ELSE
        DELETE FROM blob WHERE sha256 = _sha256;
    END IF;
    DELETE FROM orphan WHERE sha256 = _sha256;
    PERFORM content_end_reservations(_sha256);
    RETURN true;
END $$;

-- Ends the suspicion of a signature when no content that it found can be recalled any more.
CREATE OR REPLACE FUNCTION content_end_suspicion(_signature text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM suspicion WHERE signature = _signature AND NOT EXISTS (
        SELECT FROM blob WHERE scan_detail = _signature AND scan_status = 'infected' AND doomed_at IS NOT NULL)
$$;

-- Writes verdicts of scan jobs, each fenced by its lease: [{job_id, token, sha256, status, detail, engine}], one a
-- content. `_recall`: how long the objects of content that was open before stay. `_few`: a signature that finds more of
-- these is suspicious. Returns one row for each job that was still held; `remove`: remove the content's objects now.
CREATE OR REPLACE FUNCTION content_verdicts(_verdicts jsonb, _recall interval, _few integer)
RETURNS TABLE (held_job_id text, remove boolean) LANGUAGE plpgsql AS $$
DECLARE
    verdict record;
    content blob;
    now_counted integer;  -- 1: usage counts it from now on; -1: usage counts it no more
    items_of bigint;
    more_stored bigint := 0;
    more_objects bigint := 0;
    more_object_bytes bigint := 0;
    more_items bigint := 0;
    more_item_bytes bigint := 0;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    PERFORM FROM blob WHERE sha256 IN (SELECT value ->> 'sha256' FROM jsonb_array_elements(_verdicts))
    ORDER BY sha256 FOR UPDATE;
    PERFORM FROM job WHERE job_id IN (SELECT value ->> 'job_id' FROM jsonb_array_elements(_verdicts))
    ORDER BY job_id FOR UPDATE;
    FOR verdict IN
        SELECT v.* FROM jsonb_to_recordset(_verdicts)
            AS v(job_id text, token text, sha256 text, status text, detail text, engine text)
        JOIN job ON job.job_id = v.job_id AND job.lease_token = v.token AND job.status = 'running'
        ORDER BY v.job_id
    LOOP
        held_job_id := verdict.job_id;
        remove := false;
        now_counted := 0;
        SELECT * INTO content FROM blob WHERE sha256 = verdict.sha256;
        IF NOT FOUND THEN
            NULL;
        ELSIF verdict.status = 'infected' AND content.scan_status = 'infected' THEN
            UPDATE blob SET scan_detail = verdict.detail, scan_engine = verdict.engine, scanned_at = now()
            WHERE sha256 = verdict.sha256;
            PERFORM content_end_suspicion(content.scan_detail);
        ELSIF verdict.status = 'infected' THEN
            IF content.doomed_at IS NULL THEN
                now_counted := -1;
            END IF;
            -- Content that was open before, or that a suspicious signature finds, can be recalled for `_recall`.
            UPDATE blob SET scan_status = 'infected', scan_detail = verdict.detail, scan_engine = verdict.engine,
                scanned_at = now(), doomed_at = coalesce(content.doomed_at, now()),
                remove_after = CASE
                    WHEN content.doomed_at IS NOT NULL THEN coalesce(content.remove_after, content.doomed_at)
                    WHEN content.scan_status IN ('clean', 'unscannable') OR EXISTS (
                        SELECT FROM suspicion WHERE signature = verdict.detail AND trusted_at IS NULL
                    ) THEN now() + _recall
                    ELSE now() END
            WHERE sha256 = verdict.sha256 RETURNING remove_after <= now() INTO remove;
            IF NOT remove AND (
                SELECT count(*) FROM (
                    SELECT FROM blob
                    WHERE scan_detail = verdict.detail AND scan_status = 'infected' AND doomed_at IS NOT NULL
                        AND remove_after > doomed_at
                    LIMIT _few + 1
                ) AS found_by_it
            ) > _few THEN
                INSERT INTO suspicion (signature) VALUES (verdict.detail) ON CONFLICT DO NOTHING;
                IF EXISTS (SELECT FROM suspicion WHERE signature = verdict.detail AND trusted_at IS NULL) THEN
                    -- Cancels rescans that are queued; SKIP LOCKED because one that is just being leased may run.
                    UPDATE job SET status = 'cancelled', finished_at = now() WHERE job_id IN (
                        SELECT job_id FROM job WHERE kind = 'scan' AND status = 'queued' AND priority = -2
                            AND NOT EXISTS (  -- the rescan of content that is held may recall it
                                SELECT FROM blob WHERE sha256 = job.dedupe_key AND scan_status = 'infected')
                        ORDER BY job_id FOR UPDATE SKIP LOCKED);
                END IF;
            END IF;
        ELSIF content.scan_status <> 'infected' THEN
            UPDATE blob SET scan_status = verdict.status, scan_detail = verdict.detail, scan_engine = verdict.engine,
                scanned_at = now()
            WHERE sha256 = verdict.sha256;
        ELSIF content.doomed_at IS NOT NULL AND content.removing_until IS NULL THEN
            -- Recalls content that was found wrongly: its removal has not begun.
            remove := NOT EXISTS (SELECT FROM media WHERE sha256 = verdict.sha256);
            now_counted := CASE WHEN remove THEN 0 ELSE 1 END;
            UPDATE blob SET scan_status = verdict.status, scan_detail = verdict.detail, scan_engine = verdict.engine,
                scanned_at = now(), doomed_at = CASE WHEN remove THEN now() END,
                remove_after = CASE WHEN remove THEN now() END
            WHERE sha256 = verdict.sha256;
            PERFORM content_end_suspicion(content.scan_detail);
        END IF;
        IF now_counted <> 0 THEN
            SELECT count(*) INTO items_of FROM media WHERE sha256 = verdict.sha256;
            more_stored := more_stored + now_counted * (content.size + content.thumbnail_size);
            more_objects := more_objects + now_counted;
            more_object_bytes := more_object_bytes + now_counted * content.size;
            more_items := more_items + now_counted * items_of;
            more_item_bytes := more_item_bytes + now_counted * items_of * content.size;
        END IF;
        UPDATE job SET status = 'completed', finished_at = now(), lease_token = NULL, lease_until = NULL, progress = 1,
            error_code = NULL, error_detail = NULL,
            result = jsonb_build_object('scan_status', verdict.status, 'scan_detail', verdict.detail,
                'scan_engine', verdict.engine)
        WHERE job_id = verdict.job_id;
        RETURN NEXT;
    END LOOP;
    IF more_objects <> 0 OR more_items <> 0 OR more_stored <> 0 THEN
        UPDATE usage SET stored_bytes = stored_bytes + more_stored, objects = objects + more_objects,
            object_bytes = object_bytes + more_object_bytes, items = items + more_items,
            item_bytes = item_bytes + more_item_bytes;
    END IF;
END $$;

-- After a thumbnail's object was put: writes it into the content's row, and ends its job. False: the content needs no
-- thumbnail any more. Raises MC002 if the lease or the reservation has ended.
CREATE OR REPLACE FUNCTION content_thumbnail(
    _job_id text, _token text, _reservation text, _sha256 text, _thumbnail_sha256 text, _thumbnail_size bigint,
    _width integer, _height integer, _details jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    made boolean;
    reserved bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    UPDATE blob SET thumbnail_status = 'ready', thumbnail_sha256 = _thumbnail_sha256, thumbnail_size = _thumbnail_size,
        width = coalesce(width, _width), height = coalesce(height, _height),
        details = details || _details
    WHERE sha256 = _sha256 AND thumbnail_status = 'pending' AND doomed_at IS NULL AND scan_status <> 'infected';
    made := FOUND;
    DELETE FROM reservation WHERE reservation_id = _reservation AND sha256 = _sha256 RETURNING bytes INTO reserved;
    UPDATE job SET status = 'completed', finished_at = now(), lease_token = NULL, lease_until = NULL, progress = 1,
        error_code = NULL, error_detail = NULL, result = jsonb_build_object('thumbnail_sha256', _thumbnail_sha256)
    WHERE job_id = _job_id AND lease_token = _token AND status = 'running';
    IF NOT FOUND OR reserved IS NULL OR reserved < _thumbnail_size THEN
        RAISE EXCEPTION 'again' USING ERRCODE = 'MC002';
    END IF;
    UPDATE usage SET reserved_bytes = reserved_bytes - reserved,
        stored_bytes = stored_bytes + CASE WHEN made THEN _thumbnail_size ELSE 0 END;
    RETURN made;
END $$;

-- A thumbnail whose object is missing, while the content's is there, is made again. False: the content has none to be
-- made by now, or is gone.
CREATE OR REPLACE FUNCTION content_thumbnail_missing(_sha256 text, _thumbnail_job text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    content blob;
BEGIN
    SELECT * INTO content FROM blob
    WHERE sha256 = _sha256 AND doomed_at IS NULL AND scan_status <> 'infected' FOR NO KEY UPDATE;
    IF content.thumbnail_status IS DISTINCT FROM 'ready' THEN
        RETURN coalesce(content.thumbnail_status = 'pending', false);  -- somebody else has met it, too
    END IF;
    UPDATE blob SET thumbnail_status = 'pending', thumbnail_sha256 = NULL, thumbnail_size = 0 WHERE sha256 = _sha256;
    INSERT INTO job (job_id, kind, dedupe_key, payload)
    VALUES (_thumbnail_job, 'thumbnail', _sha256, jsonb_build_object('sha256', _sha256))
    ON CONFLICT (kind, dedupe_key) WHERE status IN ('queued','running') DO NOTHING;
    UPDATE usage SET stored_bytes = stored_bytes - content.thumbnail_size;
    RETURN true;
END $$;

-- Ends a canary: keeps its verdict, and deletes all else of it. True: its objects are to be removed.
CREATE OR REPLACE FUNCTION content_close_canary(_sha256 text, _owner text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    content blob;
    its_job text;
    gone integer;
BEGIN
    SELECT * INTO content FROM blob WHERE sha256 = _sha256 FOR UPDATE;
    UPDATE canary SET ended_at = coalesce(ended_at, now()),
        verdict = coalesce(verdict, nullif(content.scan_status, 'pending')),
        detail = coalesce(detail, content.scan_detail), engine = coalesce(engine, content.scan_engine)
    WHERE sha256 = _sha256 RETURNING job_id INTO its_job;
    IF NOT FOUND OR content.sha256 IS NULL THEN
        RETURN false;
    END IF;
    UPDATE job SET status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
        finished_at = CASE WHEN status = 'queued' THEN now() ELSE finished_at END, cancel_requested = true
    WHERE job_id = its_job AND status IN ('queued', 'running');
    DELETE FROM media WHERE sha256 = _sha256 AND uploaded_by = _owner;
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        PERFORM content_item_gone(content);  -- the canary has one item
    END IF;
    -- It is not held, however suspicious its signature is.
    UPDATE blob SET remove_after = doomed_at WHERE sha256 = _sha256 AND doomed_at IS NOT NULL;
    RETURN FOUND;
END $$;

-- Pods of the previous version may serve beside these during a rollout. They know neither reservations with a hash nor
-- claims. An upload here must put again what such a pod removed meanwhile.
CREATE OR REPLACE FUNCTION content_removed_unclaimed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM content_end_reservations(OLD.sha256);
    RETURN OLD;
END $$;
CREATE OR REPLACE TRIGGER content_removed_unclaimed BEFORE DELETE ON blob FOR EACH ROW
WHEN (OLD.removing_until IS NULL) EXECUTE FUNCTION content_removed_unclaimed();

-- Such a pod must not revive content that is being removed here: it answers 503, and its client tries again.
CREATE OR REPLACE FUNCTION content_revived_unclaimed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this content is being removed' USING ERRCODE = '40001';
END $$;
CREATE OR REPLACE TRIGGER content_revived_unclaimed BEFORE UPDATE ON blob FOR EACH ROW
WHEN (OLD.doomed_at IS NOT NULL AND NEW.doomed_at IS NULL AND NEW.removing_until IS NOT NULL)
EXECUTE FUNCTION content_revived_unclaimed();
