-- Events: rows that triggers write in the transaction that makes a fact true. `feed.py` reads them, and states what
-- holds. A migration creates these functions and triggers.
--
-- Triggers, so that no way leads past them: the functions of `contents/life.sql`, `jobs/queue.py`, a pod of another version. None of
-- them locks a row of another table. An upload that adds an item to known content shares a lock of the content's row
-- until it commits (`content_begin`). So whoever tells all items of a change locks that row whole first: then he sees
-- the item, or the upload sees the change.

-- A new item: `stored`; and what is known of its content already. So each item has its own event of every kind.
CREATE OR REPLACE FUNCTION event_of_new_item() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    content blob;
BEGIN
    SELECT * INTO content FROM blob WHERE sha256 = NEW.sha256;
    INSERT INTO event (type, media_id, owner, data)
    VALUES ('stored', NEW.media_id, NEW.uploaded_by, jsonb_build_object('filename', NEW.filename,
        'mime_type', content.mime_type, 'size', content.size, 'sha256', NEW.sha256));
    IF content.scanned_at IS NOT NULL THEN
        INSERT INTO event (type, media_id, owner, data)
        VALUES ('scanned', NEW.media_id, NEW.uploaded_by, jsonb_build_object('scan_status', content.scan_status));
    END IF;
    IF content.thumbnail_status IN ('ready', 'failed') THEN
        INSERT INTO event (type, media_id, owner, data)
        VALUES ('thumbnail', NEW.media_id, NEW.uploaded_by,
            jsonb_build_object('thumbnail_status', content.thumbnail_status));
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_new_item AFTER INSERT ON media FOR EACH ROW
WHEN (NEW.uploaded_by <> 'system:canary') EXECUTE FUNCTION event_of_new_item();

-- A verdict: one event for each item of the content. The nightly rescan that confirms a verdict makes none, nor does a
-- scan that failed again.
CREATE OR REPLACE FUNCTION event_of_verdict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.scan_status = OLD.scan_status AND (NEW.scan_status = 'error' OR EXISTS (
        SELECT FROM job WHERE kind = 'scan' AND dedupe_key = NEW.sha256 AND status = 'running' AND priority = -2
    )) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM blob WHERE sha256 = NEW.sha256 FOR UPDATE;
    INSERT INTO event (type, media_id, owner, data)
    SELECT 'scanned', media_id, uploaded_by, jsonb_build_object('scan_status', NEW.scan_status)
    FROM media WHERE sha256 = NEW.sha256 AND uploaded_by <> 'system:canary' ORDER BY media_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_verdict AFTER UPDATE OF scan_status, scanned_at ON blob FOR EACH ROW
WHEN (NEW.scanned_at IS NOT NULL AND NEW.scanned_at IS DISTINCT FROM OLD.scanned_at)
EXECUTE FUNCTION event_of_verdict();

CREATE OR REPLACE FUNCTION event_of_thumbnail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM blob WHERE sha256 = NEW.sha256 FOR UPDATE;
    INSERT INTO event (type, media_id, owner, data)
    SELECT 'thumbnail', media_id, uploaded_by, jsonb_build_object('thumbnail_status', NEW.thumbnail_status)
    FROM media WHERE sha256 = NEW.sha256 AND uploaded_by <> 'system:canary' ORDER BY media_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_thumbnail AFTER UPDATE OF thumbnail_status ON blob FOR EACH ROW
WHEN (NEW.thumbnail_status IN ('ready', 'failed') AND NEW.thumbnail_status IS DISTINCT FROM OLD.thumbnail_status)
EXECUTE FUNCTION event_of_thumbnail();

-- A transcription that has ended. Its owner is whoever asked for it.
CREATE OR REPLACE FUNCTION event_of_transcript() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (type, media_id, owner, data)
    VALUES ('transcript', NEW.media_id, NEW.owner, jsonb_build_object('job_id', NEW.job_id, 'status', NEW.status));
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_transcript AFTER UPDATE OF status ON job FOR EACH ROW
WHEN (NEW.kind = 'transcribe' AND NEW.status IN ('completed', 'failed') AND NEW.status IS DISTINCT FROM OLD.status
    AND NEW.media_id IS NOT NULL AND NEW.owner IS NOT NULL)
EXECUTE FUNCTION event_of_transcript();

-- Name, labels or who sees it: `Library.change` sets these columns also where only labels are other. The event keeps
-- whether all could see it before: who loses sight of it hears so as well.
CREATE OR REPLACE FUNCTION event_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (type, media_id, owner, tenant_scope, data)
    VALUES ('changed', NEW.media_id, NEW.uploaded_by, OLD.tenant_scope, '{}');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_change AFTER UPDATE OF filename, tenant_scope ON media FOR EACH ROW
WHEN (NEW.uploaded_by <> 'system:canary') EXECUTE FUNCTION event_of_change();

CREATE OR REPLACE FUNCTION event_of_attachment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (type, media_id, owner, rooms, data)
    SELECT 'attached', NEW.media_id, uploaded_by, ARRAY[NEW.room_id],
        jsonb_build_object('room_id', NEW.room_id, 'added_by', NEW.added_by)
    FROM media WHERE media_id = NEW.media_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_attachment AFTER INSERT ON room_file FOR EACH ROW
EXECUTE FUNCTION event_of_attachment();

-- Not where the item itself is deleted: then its row is gone already.
CREATE OR REPLACE FUNCTION event_of_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (type, media_id, owner, rooms, data)
    SELECT 'removed', OLD.media_id, uploaded_by, ARRAY[OLD.room_id], jsonb_build_object('room_id', OLD.room_id)
    FROM media WHERE media_id = OLD.media_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER event_of_removal AFTER DELETE ON room_file FOR EACH ROW
EXECUTE FUNCTION event_of_removal();

-- Before the deletion, because the rooms go with the item. The event keeps who could see it: nobody but its owner, if
-- it was infected.
CREATE OR REPLACE FUNCTION event_of_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    infected boolean;
BEGIN
    SELECT scan_status = 'infected' INTO infected FROM blob WHERE sha256 = OLD.sha256;
    INSERT INTO event (type, media_id, owner, rooms, tenant_scope, data)
    VALUES ('deleted', OLD.media_id, OLD.uploaded_by,
        CASE WHEN infected THEN '{}' ELSE ARRAY(SELECT room_id FROM room_file WHERE media_id = OLD.media_id) END,
        OLD.tenant_scope AND NOT infected, '{}');
    RETURN OLD;
END $$;
CREATE OR REPLACE TRIGGER event_of_deletion BEFORE DELETE ON media FOR EACH ROW
WHEN (OLD.uploaded_by <> 'system:canary') EXECUTE FUNCTION event_of_deletion();

-- Gives positions to committed events that have none, at most `_most`. Returns the last position that was given, by
-- this call or before it. Whoever calls it sees positions of all events that were committed before, up to `_most`: while
-- somebody else is giving them, it waits for his commit.
CREATE OR REPLACE FUNCTION event_place(_most integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF EXISTS (SELECT FROM event WHERE position IS NULL) THEN
        SELECT placed INTO last FROM event_head FOR UPDATE;
        -- The snapshots of these statements were taken after the lock: they see all positions that were given before.
        IF EXISTS (SELECT FROM event WHERE position IS NULL) THEN
            -- A position that was shown must not be given again after a crash.
            PERFORM set_config('synchronous_commit', 'on', true);
            WITH waiting AS (
                SELECT number, row_number() OVER (ORDER BY number) AS place
                FROM (SELECT number FROM event WHERE position IS NULL ORDER BY number LIMIT _most) AS first_ones
            ), given AS (
                UPDATE event SET position = last + place FROM waiting
                WHERE event.number = waiting.number RETURNING event.position
            )
            SELECT coalesce(max(given.position), last) INTO last FROM given;
            UPDATE event_head SET placed = last;
        END IF;
        RETURN last;
    END IF;
    RETURN (SELECT placed FROM event_head);
END $$;
