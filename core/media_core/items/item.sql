-- The statement of every read of one file, as a function. So a session plans it once: planning it takes three times as
-- long as running it, and behind PgBouncer no client can prepare it. `item.py` names the columns. A migration creates it.

-- No row where there is no such item. `_rooms`: those of the item's rooms that the caller may know of; null: all.
CREATE OR REPLACE FUNCTION item_find(_media_id text, _rooms text[])
RETURNS TABLE (media media, blob blob, labels jsonb, rooms text[]) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT media, blob,
        (SELECT jsonb_object_agg(key, value) FROM label WHERE label.media_id = _media_id),
        ARRAY(SELECT room_id FROM room_file
            WHERE room_file.media_id = _media_id AND (_rooms IS NULL OR room_id = ANY(_rooms)) ORDER BY room_id)
    FROM media JOIN blob USING (sha256) WHERE media.media_id = _media_id;
END $$;
