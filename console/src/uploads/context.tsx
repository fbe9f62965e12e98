/**
 * Uploads under way, whatever page is shown: tus, several at once, each to be paused. A reload takes them up where they
 * stood, by the files that `kept.ts` holds; where the browser kept none, choosing the file again goes on.
 */
import { useQueryClient } from "@tanstack/react-query";
import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState, type ReactNode } from "react";
import type { Upload } from "tus-js-client";

import { ask, problemIn } from "../api/http";
import { refreshAssets } from "../api/lists";
import { useSession } from "../api/session";
import { alone, find, forget, keep, keptBy, pauseKept } from "./kept";
import { placeOf } from "./places";

export type UploadState = "waiting" | "checking" | "sending" | "paused" | "done" | "known" | "failed" | "lost";

export interface Item {
  id: string;
  name: string;
  key: string;
  size: number;
  sent: number;
  state: UploadState;
  /** Whether a reload would find the file again. */
  kept: boolean;
  asset?: string;
  code?: string;
  reason?: string;
}

interface Actions {
  /** `key`: where to, if not where the file's name belongs. */
  add: (files: Iterable<File>, key?: string) => void;
  pause: (id: string) => void;
  resume: (id: string) => void;
  cancel: (id: string) => void;
  clear: () => void;
}

const AT_ONCE = 3;
const CHUNK = 8 * 1024 * 1024;
/** Up to here the whole file is hashed before it is sent: what is here already need not be sent again. */
const HASHED = 64 * 1024 * 1024;
const OVER: readonly UploadState[] = ["done", "known", "failed", "lost"];
const BUSY: readonly UploadState[] = ["checking", "sending"];
/** Lists are fetched again a moment after a file has arrived, and once more when a job has looked into it. */
const SOON = 300;
const LATER = 4000;

interface Work {
  file: File;
  mime: string;
  tus?: Upload;
  stopped: boolean;
  /** First kept, then sent: a reload at any moment finds it. */
  kept: Promise<unknown>;
  /** Lets other tabs see to it. */
  release: () => void;
}

const Doing = createContext<Actions | null>(null);
const Done = createContext<Item[]>([]);

async function sha256(file: File): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let count = 0;
/** Later ones sort after earlier ones. */
const newId = () =>
  `${Date.now().toString(36)}-${(count++).toString(36).padStart(4, "0")}-${Math.random().toString(36).slice(2, 8)}`;

export function UploadsProvider({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const user = useSession().data?.userId ?? null;
  const [items, set] = useState<Item[]>([]);
  const work = useRef(new Map<string, Work>());
  const latest = useRef(items);
  useEffect(() => {
    latest.current = items;
  }, [items]);
  const timers = useRef<ReturnType<typeof setTimeout>[]>([]);
  const change = useCallback((id: string, values: Partial<Item>) => {
    set((all) => all.map((one) => (one.id === id ? { ...one, ...values } : one)));
  }, []);

  const finished = useCallback(
    (id: string, values: Partial<Item>) => {
      change(id, values);
      void forget(id);
      work.current.get(id)?.release();
      work.current.delete(id);
      timers.current.forEach(clearTimeout);
      timers.current = [SOON, LATER].map((wait) => setTimeout(() => void refreshAssets(client), wait));
    },
    [change, client],
  );

  /** Takes care of a file, until it is here or given up. */
  const take = useCallback((id: string, file: File, mime: string, kept: Promise<unknown>) => {
    let release = () => undefined as void;
    const until = new Promise<void>((resolve) => (release = resolve));
    work.current.set(id, { file, mime, stopped: false, kept, release });
    return until;
  }, []);
  /** One after the other, in the order in which they are sent. */
  const keeping = useRef<Promise<unknown>>(Promise.resolve());

  const run = useCallback(
    async (item: Item) => {
      const mine = work.current.get(item.id);
      if (!mine) return;
      const { file, mime } = mine;
      await mine.kept;
      if (mine.stopped) return;
      let digest: string | undefined;
      if (file.size <= HASHED && "subtle" in crypto) {
        try {
          digest = await sha256(file);
          const found = await ask<{ known: boolean; asset: { id: string } | null }>("/api/assets/uploads/check", {
            json: { sha256: digest, size: file.size },
          });
          if (found.known) {
            finished(item.id, { state: "known", asset: found.asset?.id });
            return;
          }
        } catch (error) {
          if (error instanceof DOMException) {
            change(item.id, { state: "failed", reason: error.message });
            return;
          }
          // It is sent, then.
        }
        if (mine.stopped) return;
      }
      const { Upload } = await import("tus-js-client");
      if (mine.stopped) return;
      change(item.id, { state: "sending" });
      const upload = new Upload(file, {
        endpoint: "/api/assets/uploads",
        chunkSize: CHUNK,
        retryDelays: [0, 500, 1000, 2000, 4000, 8000, 15000],
        removeFingerprintOnSuccess: true,
        metadata: { filename: item.key, filetype: mime, ...(digest ? { sha256: digest } : {}) },
        onProgress: (sent) => change(item.id, { sent }),
        onSuccess: ({ lastResponse }) =>
          finished(item.id, { state: "done", asset: lastResponse.getHeader("butai-asset-id") }),
        onError: (error) => {
          const answer = "originalResponse" in error ? error.originalResponse : null;
          const problem = answer ? problemIn(answer.getStatus(), answer.getBody()) : null;
          change(item.id, {
            state: "failed",
            code: problem?.code ?? "unreachable",
            reason: problem?.message ?? error.message,
          });
        },
        onShouldRetry: (error) => {
          const status = error.originalResponse?.getStatus() ?? 0;
          return status === 0 || status >= 500 || status === 409 || status === 423 || status === 429;
        },
      });
      mine.tus = upload;
      const earlier = await upload.findPreviousUploads();
      if (earlier[0]) upload.resumeFromPreviousUpload(earlier[0]);
      if (!mine.stopped) upload.start();
    },
    [change, finished],
  );

  // At most so many at a time, and never two of one key; the next begins when one ends.
  useEffect(() => {
    const busy = items.filter((one) => BUSY.includes(one.state));
    const keys = new Set(busy.map((one) => one.key));
    let free = AT_ONCE - busy.length;
    for (const one of items) {
      if (free <= 0) break;
      if (one.state !== "waiting" || keys.has(one.key)) continue;
      free -= 1;
      keys.add(one.key);
      // oxlint-disable-next-line react/set-state-in-effect -- the queue is state of this component
      change(one.id, { state: "checking" });
      void run(one);
    }
  }, [items, change, run]);

  // What was under way when the page was left. Another tab that sees to it is waited for.
  useEffect(() => {
    if (!user) return;
    let over = false;
    void keptBy(user).then((ids) => {
      for (const id of ids)
        void alone(id, async () => {
          const kept = over || work.current.has(id) ? null : await find(id);
          if (!kept) return;
          const { name, key, size, paused, file } = kept;
          const place = placeOf(name);
          const until = file && place ? take(id, file, place.mime, Promise.resolve()) : Promise.resolve();
          const state = !file ? "lost" : paused ? "paused" : "waiting";
          set((all) => [
            ...all.filter((one) => one.id !== id),
            { id, name, key, size, sent: 0, state, kept: Boolean(file) },
          ]);
          await until;
        });
    });
    return () => {
      over = true;
    };
  }, [user, take]);

  const add = useCallback(
    (files: Iterable<File>, under?: string) => {
      const fresh: Item[] = [];
      for (const file of files) {
        const place = placeOf(file.name);
        const plain = { name: file.name, size: file.size, sent: 0, kept: false };
        if (!place) {
          fresh.push({ ...plain, id: newId(), key: "", state: "failed", code: "type_unsupported" });
          continue;
        }
        const key = under ?? place.key;
        const lost = latest.current.find((one) => one.state === "lost" && one.key === key && one.size === file.size);
        const id = lost?.id ?? newId();
        fresh.push({ ...plain, id, key, state: "waiting" });
        const kept = keeping.current
          .then(() =>
            work.current.has(id)
              ? keep({ id, user: user ?? "", name: file.name, key, size: file.size, paused: false, file })
              : false,
          )
          .then((whole) => change(id, { kept: whole }));
        keeping.current = kept;
        const until = take(id, file, place.mime, kept);
        void alone(id, () => until);
      }
      const ids = new Set(fresh.map((one) => one.id));
      const keys = new Set(fresh.map((one) => one.key));
      set((all) => [
        ...all.filter((one) => !ids.has(one.id) && !(OVER.includes(one.state) && keys.has(one.key))),
        ...fresh,
      ]);
    },
    [change, take, user],
  );

  const pause = useCallback(
    (id: string) => {
      const mine = work.current.get(id);
      if (mine) mine.stopped = true;
      void mine?.tus?.abort();
      void pauseKept(id, true);
      change(id, { state: "paused" });
    },
    [change],
  );
  const resume = useCallback(
    (id: string) => {
      const mine = work.current.get(id);
      if (!mine) return;
      // What still runs of the work before sees that it was stopped.
      work.current.set(id, { ...mine, stopped: false, tus: undefined });
      void pauseKept(id, false);
      change(id, { state: "waiting", code: undefined, reason: undefined });
    },
    [change],
  );
  const drop = useCallback((id: string) => {
    const mine = work.current.get(id);
    if (mine) {
      mine.stopped = true;
      // The service forgets what it has of it, too.
      void mine.tus?.abort(true).catch(() => undefined);
      mine.release();
    }
    work.current.delete(id);
    void forget(id);
  }, []);
  const cancel = useCallback(
    (id: string) => {
      drop(id);
      set((all) => all.filter((one) => one.id !== id));
    },
    [drop],
  );
  const clear = useCallback(() => {
    for (const one of latest.current) if (OVER.includes(one.state)) drop(one.id);
    set((all) => all.filter((one) => !OVER.includes(one.state)));
  }, [drop]);

  // What failed for want of a connection goes on when there is one.
  useEffect(() => {
    const online = () => {
      for (const one of latest.current) if (one.state === "failed" && one.code === "unreachable") resume(one.id);
    };
    addEventListener("online", online);
    return () => removeEventListener("online", online);
  }, [resume]);

  const actions = useMemo(() => ({ add, pause, resume, cancel, clear }), [add, pause, resume, cancel, clear]);
  return (
    <Doing value={actions}>
      <Done value={items}>{children}</Done>
    </Doing>
  );
}

/** What can be done. Never changes, so that whoever uses it is not rendered anew with each byte that is sent. */
export function useUploads(): Actions {
  const given = useContext(Doing);
  if (!given) throw new Error("outside of UploadsProvider");
  return given;
}

/** All of them, as they stand. */
export function useUploadItems(): Item[] {
  return useContext(Done);
}
