/** Server-sent events out of a response's body, as the HTML standard reads them. */

export interface ServerEvent {
  type: string;
  data: string;
  id: string | null;
}

/** Streams say that they are alive every 15 seconds; one that is silent for longer is taken for dead. */
const SILENCE = 45_000;

/** An event without data only says where a stream goes on. Raises where the stream breaks or is silent. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), SILENCE);
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split(/\r\n\r\n|\n\n|\r\r/);
      rest = blocks.pop()!;
      for (const block of blocks) {
        const event = read(block);
        if (event !== null) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function read(block: string): ServerEvent | null {
  const data: string[] = [];
  let [type, id] = ["message", null as string | null];
  for (const line of block.split(/\r\n|\n|\r/)) {
    const colon = line.indexOf(":");
    const [field, value] = colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (field === "data") data.push(value);
    else if (field === "event") type = value;
    else if (field === "id") id = value;
  }
  return data.length === 0 && id === null ? null : { type, data: data.join("\n"), id };
}

async function within<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream is silent")), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
