"""`/v1/usage`: the quota, and how much of it is used."""

from fastapi import APIRouter

from media_api.answers import problems
from media_api.auth import Reader
from media_api.models import Data, Limits, Usage
from media_api.routes.parameters import KnownOnly
from media_api.services import Wired
from media_core.contents.quota import MIB

router = APIRouter(tags=["Usage"])


@router.get("/v1/usage", responses=problems.described("invalid_request"))
async def get_usage(caller: Reader, services: Wired, _known: KnownOnly) -> Data[Usage]:
    """What the tenant stores and may store."""
    policy = await services.policy.current()
    totals = await services.library.totals()
    limits = Limits(
        max_storage_mb=totals.usage.maximum // MIB,
        max_files=totals.usage.most_items,
        max_upload_mb=policy.max_upload_bytes / MIB,
        max_transcription_minutes_per_day=policy.max_transcription_seconds_per_day // 60,
    )
    return Data(
        data=Usage(
            limits=limits,
            stored_bytes=totals.usage.stored,
            reserved_bytes=totals.usage.reserved,
            objects=totals.objects,
            files=totals.usage.items,
            dedupe_saved_bytes=totals.dedupe_saved,
            transcribed_seconds_today=totals.transcribed_today,
        )
    )
