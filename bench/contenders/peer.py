"""The peer: the few lines of FastAPI that most people would write first.

    python -m bench.contenders.peer FOLDER        prints its port

It neither hashes nor syncs, counts or checks the caller. The same uvicorn, httptools and uvloop as the api's serve it.
"""

import secrets
import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.responses import FileResponse

from bench.resources import MIB

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()

app = FastAPI()


@app.post("/upload", status_code=201)
async def upload(file: UploadFile) -> str:
    name = secrets.token_hex(16)
    with (FOLDER / name).open("wb") as target:
        while chunk := await file.read(MIB):
            target.write(chunk)
    return name


@app.get("/{name}")
async def download(name: str) -> FileResponse:
    return FileResponse(FOLDER / Path(name).name)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)).run(
        sockets=[listener]
    )
