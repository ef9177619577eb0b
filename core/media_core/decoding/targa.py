"""Pictures of Truevision's TGA. No mark begins them, so what their header says has to fit together (TGA 2.0)."""

from __future__ import annotations


def begins(head: bytes) -> bool:
    """Whether content with these first 18 bytes or more may be one."""
    if len(head) < 18:
        return False
    has_map, kind, depth, flags = head[1], head[2], head[16], head[17]
    is_mapped = has_map == 1 and kind in (1, 9) and depth in (8, 16) and head[7] in (15, 16, 24, 32)
    is_true = has_map == 0 and kind in (2, 10) and depth in (15, 16, 24, 32) and not any(head[3:8])
    is_grey = has_map == 0 and kind in (3, 11) and depth in (8, 16) and not any(head[3:8])
    return (is_mapped or is_true or is_grey) and not flags & 0xC0 and any(head[12:14]) and any(head[14:16])


def is_grey_and_clear(head: bytes) -> bool:
    """Whether such a picture is of greys with transparency, as GIMP writes them."""
    return head[2] in (3, 11) and head[16] == 16 and head[17] & 0xF == 8
