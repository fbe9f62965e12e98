/** Asking the API: JSON in and out, and errors that say what they are. Every call of the console goes through `ask`. */

/** An answer that is no success, or none at all (`status` 0). `code` is stable, `message` is for people. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** What to do, where the service has advice. */
    readonly action?: string,
    /** Seconds after which the service wants to be asked again, where it says so. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later by itself: no answer, too slow, too many, or a fault of the service. */
  get isPassing(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

type Listener = () => void;
const signedOut = new Set<Listener>();

/** Tells when an answer was 401: the session has ended, or never was. Returns how to stop listening. */
export function onSignedOut(listener: Listener): () => void {
  signedOut.add(listener);
  return () => signedOut.delete(listener);
}

let language = "en";

/** In which language messages of the API are wanted. */
export function askIn(tag: string): void {
  language = tag;
}

/** The error that an answer stands for: problem+json, or the envelope of the given paths. */
export async function problemOf(answer: Response): Promise<ApiError> {
  const text = await answer.text().catch(() => "");
  return problemIn(answer.status, text, answer.headers.get("retry-after"));
}

/** As `problemOf`. `retryAfter`: the header of that name, in seconds. */
export function problemIn(status: number, text: string, retryAfter: string | null = null): ApiError {
  const seconds = Number(retryAfter) || undefined;
  if (status === 401) for (const listener of signedOut) listener();
  try {
    const body = JSON.parse(text) as Record<string, unknown>;
    const inner = (body.error ?? body) as Record<string, unknown>;
    const message = inner.detail ?? inner.message ?? body.message ?? body.title;
    if (typeof inner.code === "string")
      return new ApiError(
        status,
        inner.code,
        typeof message === "string" ? message : inner.code,
        typeof inner.action === "string" ? inner.action : undefined,
        seconds,
      );
  } catch {
    // Not JSON: whatever stands before the service has answered.
  }
  return new ApiError(status, "unexpected_answer", `HTTP ${status}`, undefined, seconds);
}

export interface Asked {
  method?: string;
  json?: unknown;
  form?: FormData;
  signal?: AbortSignal;
}

/** One request of the API. Raises `ApiError`; an aborted one raises the signal's reason. */
export async function ask<T>(path: string, { method, json, form, signal }: Asked = {}): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json", "accept-language": language };
  if (json !== undefined) headers["content-type"] = "application/json";
  let answer: Response;
  try {
    answer = await fetch(path, {
      method: method ?? (json !== undefined || form ? "POST" : "GET"),
      headers,
      body: form ?? (json === undefined ? undefined : JSON.stringify(json)),
      credentials: "same-origin",
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "The service does not answer");
  }
  if (!answer.ok) throw await problemOf(answer);
  // What was only accepted, or is done, has no body.
  const speaks = answer.headers.get("content-type")?.includes("json");
  return (speaks ? await answer.json() : undefined) as T;
}

/** A query string; what is empty is left out, lists repeat their name. */
export function query(values: Record<string, string | number | boolean | readonly string[] | undefined>): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined || value === "" || value === false) continue;
    if (Array.isArray(value)) for (const one of value) found.append(name, one);
    else found.append(name, String(value));
  }
  const text = found.toString();
  return text ? `?${text}` : "";
}
