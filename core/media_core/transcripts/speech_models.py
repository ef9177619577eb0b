"""What a speech model's name says of it. The models themselves are loaded by the workers alone."""

from pathlib import PurePath


def translates(model: str) -> bool:
    """Whether Whisper's model of this name (a name, a hub's id, or a folder) was trained to translate into English.

    Models for English alone (`.en`) were not, nor were `turbo` and the distilled ones: asked to, they answer in the
    language that was spoken, or with nonsense. A folder may hide what it holds; the worker looks into it.
    """
    path = PurePath(model.lower())
    name = path.name
    for folder in path.parts:
        if folder.startswith("models--"):  # the hub's cache: models--owner--name/snapshots/revision
            name = folder
    return not (name.endswith((".en", "-en")) or "turbo" in name or "distil" in name)


def cannot_translate(model: str) -> str:
    """The sentence for whoever asks such a model to translate."""
    return (
        f"This tenant's speech model ({PurePath(model).name}) writes down what is said and can't translate it; "
        "leave out `task`."
    )
