"""`usage`: what the tenant stores, and its limits."""

from mediactl.program import render
from mediactl.program.command import app, command
from mediactl.program.session import Session


@command(app, "usage")
def usage(session: Session) -> None:
    """Show what the tenant stores, and its limits."""
    facts = session.client.usage()
    if session.as_json:
        render.data(facts)
        return
    limits, stored, reserved = facts["limits"], facts["stored_bytes"], facts["reserved_bytes"]
    quota = limits["max_storage_mb"] * 1024 * 1024
    words = f"{render.size(stored)} of {render.size(quota)}"
    if reserved:
        words += f", {render.size(reserved)} reserved by uploads under way"
    render.gauge("storage", stored + reserved, quota, words)
    files = f"{facts['files']:,}, of {facts['objects']:,} distinct contents"
    if (most := limits.get("max_files")) is not None:  # an older api does not tell it
        files += f"; at most {most:,}"
    saved = facts["dedupe_saved_bytes"]
    today = facts.get("transcribed_seconds_today")  # an older api does not tell it
    render.fields(
        {
            "files": files,
            "saved": f"{render.size(saved)} by storing the same bytes once" if saved else None,
            "one upload": f"up to {render.size(limits['max_upload_mb'] * 1024 * 1024)}",
            "transcription": f"up to {render.span(limits['max_transcription_minutes_per_day'] * 60)} of audio a day",
            "transcribed": f"{render.span(today)} of audio today" if today else None,
        }
    )
