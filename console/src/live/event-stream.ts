/**
 * Server-sent events over `fetch`: the browser's own `EventSource` can neither say in which language it asks, nor be told
 * where to go on after it was made anew, nor show the comments that mean "still there". Used by `use-show`.
 */
export interface Sent {
  event: string;
  data: string;
  id: string;
}

/** The messages of an answer as they come; null for each sign of life that says nothing. Ends with the answer. */
export async function* sentBy(answer: Response): AsyncGenerator<Sent | null> {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      left += value;
      const blocks = left.split(/\r?\n\r?\n/);
      left = blocks.pop() ?? "";
      for (const block of blocks) yield message(block);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function message(block: string): Sent | null {
  const found: Sent = { event: "message", data: "", id: "" };
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event") found.event = value;
    else if (name === "id") found.id = value;
  }
  if (!data.length) return null;
  found.data = data.join("\n");
  return found;
}
