/**
 * Does what the queue decides: sends files by tus, keeps them in the browser, and tells the queue what became of it. Uploads
 * go on whatever page is shown. A reload takes them up where they stood, by the files that `kept.ts` holds; where the browser
 * kept none, choosing the file again goes on.
 */
import type { Upload } from "tus-js-client";

import { ask, problemIn } from "../api/http";
import { alone, find, fingerprint, forget, forgetOthers, keep, keptBy, pauseKept } from "./kept";
import { placeOf } from "./places";
import { next, type Effect, type Event, type Item } from "./queue";

const CHUNK = 8 * 1024 * 1024;
/** Up to here the whole file is hashed before it is sent: what is here already need not be sent again. */
const HASHED = 64 * 1024 * 1024;
/** Lists are fetched again a moment after a file has arrived, and once more when a job has looked into it. */
const SOON = 300;
const LATER = 4000;

/** A file that is here to be sent. */
interface Held {
  file: File;
  mime: string;
  /** The attempt that runs; 0: none. */
  run: number;
  tus?: Upload;
  /** First kept, then sent: a reload at any moment finds it. */
  kept: Promise<unknown>;
  /** Lets other tabs see to it. */
  release: () => void;
}

async function sha256(file: File): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let count = 0;
/** Later ones sort after earlier ones. */
const newId = () =>
  `${Date.now().toString(36)}-${(count++).toString(36).padStart(4, "0")}-${Math.random().toString(36).slice(2, 8)}`;

/** All uploads of this page. `subscribe` and `items` are what `useSyncExternalStore` asks for. */
export class Uploads {
  private all: readonly Item[] = [];
  private user = "";
  private readonly listeners = new Set<() => void>();
  private readonly held = new Map<string, Held>();
  /** Chosen, and not yet taken. */
  private readonly offered = new Map<string, { file: File; mime: string }>();
  /** One after the other, in the order in which they are sent. */
  private keeping: Promise<unknown> = Promise.resolve();
  private timers: ReturnType<typeof setTimeout>[] = [];

  /** `refresh` asks for the lists again. */
  constructor(private readonly refresh: () => void) {}

  readonly items = () => this.all;

  readonly subscribe = (listener: () => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** `under`: where to, if not where the file's name belongs. */
  readonly add = (files: Iterable<File>, under?: string) => {
    const offered = [...files].map((file) => {
      const id = newId();
      const place = placeOf(file.name);
      if (place) this.offered.set(id, { file, mime: place.mime });
      return { id, name: file.name, size: file.size, key: place && (under ?? place.key) };
    });
    this.tell({ type: "added", files: offered });
    this.offered.clear();
  };

  readonly pause = (id: string) => this.tell({ type: "pause", id });
  readonly resume = (id: string) => this.tell({ type: "resume", id });
  readonly cancel = (id: string) => this.tell({ type: "cancel", id });
  readonly clear = () => this.tell({ type: "clear" });
  readonly online = () => this.tell({ type: "online" });

  /** Goes on with what this user had under way when the page was left; what another tab sees to is waited for. Returns how
   * to stop looking. */
  readonly takeUp = (user: string) => {
    if (this.user && this.user !== user) this.leave();
    this.user = user;
    let over = false;
    void this.keptOf(user).then((ids) => {
      for (const id of over ? [] : ids)
        void alone(id, async () => {
          const kept = over || this.held.has(id) ? null : await find(id);
          if (!kept) return;
          const { name, key, size, paused, file } = kept;
          const place = placeOf(name);
          const until = file && place ? this.hold(id, file, place.mime, Promise.resolve()) : Promise.resolve();
          this.tell({ type: "found", id, name, key, size, paused, hasFile: Boolean(file && place) });
          await until;
        });
    });
    return () => {
      over = true;
    };
  };

  /** Ends and forgets everything, since the user is no longer signed in. What the service has of it expires. */
  readonly signedOut = () => {
    this.leave();
    void forgetOthers(null);
  };

  private async keptOf(user: string): Promise<string[]> {
    await forgetOthers(user);
    return keptBy(user);
  }

  private leave(): void {
    this.user = "";
    for (const id of this.held.keys()) {
      void this.stop(id)?.abort();
      this.letGo(id);
    }
    this.offered.clear();
    this.all = [];
    for (const listener of this.listeners) listener();
  }

  private tell(event: Event): void {
    const { items, effects } = next(this.all, event);
    const changed = items !== this.all;
    this.all = items;
    for (const effect of effects) this.perform(effect);
    if (changed) for (const listener of this.listeners) listener();
  }

  private perform(effect: Effect): void {
    switch (effect.do) {
      case "take":
        this.take(effect);
        return;
      case "begin":
        void this.begin(effect);
        return;
      case "stop":
        void this.stop(effect.id)?.abort();
        return;
      case "mark":
        void pauseKept(effect.id, effect.paused);
        return;
      case "forget":
        this.letGo(effect.id);
        return;
      case "discard":
        void this.stop(effect.id)
          ?.abort(true)
          .catch(() => undefined);
        this.letGo(effect.id);
        return;
      case "refresh":
        this.timers.forEach(clearTimeout);
        this.timers = [SOON, LATER].map((wait) => setTimeout(this.refresh, wait));
    }
  }

  /** Has the file until it is let go; resolves then. */
  private hold(id: string, file: File, mime: string, kept: Promise<unknown>): Promise<void> {
    return new Promise((release) => this.held.set(id, { file, mime, run: 0, kept, release }));
  }

  private take({ id, offered, name, key, size }: Extract<Effect, { do: "take" }>): void {
    const given = this.offered.get(offered);
    if (!given) return;
    const { user } = this;
    const kept = this.keeping
      .then(() => this.held.has(id) && keep({ id, user, name, key, size, paused: false, file: given.file }))
      .then((whole) => this.tell({ type: "kept", id, whole }));
    this.keeping = kept;
    const until = this.hold(id, given.file, given.mime, kept);
    void alone(id, () => until);
  }

  private letGo(id: string): void {
    this.held.get(id)?.release();
    this.held.delete(id);
    void forget(id);
  }

  /** What runs of it sees that it is stopped. Returns what sends it, to be aborted. */
  private stop(id: string): Upload | undefined {
    const mine = this.held.get(id);
    if (mine) mine.run = 0;
    return mine?.tus;
  }

  private async begin({ id, run, key }: Extract<Effect, { do: "begin" }>): Promise<void> {
    const mine = this.held.get(id);
    if (!mine) return;
    mine.run = run;
    const stopped = () => mine.run !== run || this.held.get(id) !== mine;
    const { file } = mine;
    const { user } = this;
    await mine.kept;
    if (stopped()) return;
    let digest: string | undefined;
    if (file.size <= HASHED && "subtle" in crypto) {
      try {
        digest = await sha256(file);
        const found = await ask<{ known: boolean; asset: { id: string } | null }>("/api/assets/uploads/check", {
          json: { sha256: digest, size: file.size },
        });
        if (found.known) {
          this.tell({ type: "known", id, run, asset: found.asset?.id });
          return;
        }
      } catch (error) {
        if (error instanceof DOMException) {
          this.tell({ type: "failed", id, run, reason: error.message });
          return;
        }
        // It is sent, then.
      }
      if (stopped()) return;
    }
    const { Upload: Made } = await import("tus-js-client");
    if (stopped()) return;
    this.tell({ type: "sending", id, run });
    const upload = new Made(file, {
      endpoint: "/api/assets/uploads",
      chunkSize: CHUNK,
      retryDelays: [0, 500, 1000, 2000, 4000, 8000, 15000],
      removeFingerprintOnSuccess: true,
      fingerprint: () => Promise.resolve(fingerprint(user, key, file)),
      metadata: { filename: key, filetype: mine.mime, ...(digest ? { sha256: digest } : {}) },
      onProgress: (sent) => this.tell({ type: "progress", id, run, sent }),
      onSuccess: ({ lastResponse }) =>
        this.tell({ type: "succeeded", id, run, asset: lastResponse.getHeader("butai-asset-id") }),
      onError: (error) => {
        const answer = "originalResponse" in error ? error.originalResponse : null;
        const problem = answer ? problemIn(answer.getStatus(), answer.getBody()) : null;
        const reason = problem?.message ?? error.message;
        this.tell({ type: "failed", id, run, code: problem?.code ?? "unreachable", reason });
      },
      onShouldRetry: (error) => {
        const status = error.originalResponse?.getStatus() ?? 0;
        return status === 0 || status >= 500 || [408, 409, 423, 429].includes(status);
      },
    });
    mine.tus = upload;
    const earlier = await upload.findPreviousUploads();
    if (earlier[0]) upload.resumeFromPreviousUpload(earlier[0]);
    if (!stopped()) upload.start();
  }
}
