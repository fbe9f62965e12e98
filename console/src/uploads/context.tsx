/**
 * Uploads under way, whatever page is shown: tus, several at once, each to be paused. What was begun before a reload is
 * listed again; the browser forgets the file itself, so choosing it again goes on where it stood.
 */
import { useQueryClient } from "@tanstack/react-query";
import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState, type ReactNode } from "react";
import type { Upload } from "tus-js-client";

import { ask, problemIn } from "../api/http";

export type UploadState = "waiting" | "checking" | "sending" | "paused" | "done" | "known" | "failed" | "lost";

export interface Item {
  id: number;
  name: string;
  key: string;
  size: number;
  sent: number;
  state: UploadState;
  code?: string;
  reason?: string;
}

interface Given {
  items: Item[];
  add: (files: Iterable<File>) => void;
  pause: (id: number) => void;
  resume: (id: number) => void;
  cancel: (id: number) => void;
  clear: () => void;
}

const AT_ONCE = 3;
const CHUNK = 8 * 1024 * 1024;
/** Up to here the whole file is hashed before it is sent: what is here already need not be sent again. */
const HASHED = 64 * 1024 * 1024;
const KEPT = "butai.uploads";

const FOLDERS: Record<string, [folder: string, mime: string]> = {
  vrm: ["vrm", "model/vrm"],
  fbx: ["animations", "application/octet-stream"],
  vrma: ["animations", "application/octet-stream"],
  bvh: ["animations", "application/octet-stream"],
  mp3: ["bgm", "audio/mpeg"],
  ogg: ["bgm", "audio/ogg"],
  wav: ["bgm", "audio/wav"],
  m4a: ["bgm", "audio/mp4"],
  flac: ["bgm", "audio/flac"],
  aac: ["bgm", "audio/aac"],
  hdr: ["hdr", "image/vnd.radiance"],
  exr: ["hdr", "image/x-exr"],
  glb: ["scene", "model/gltf-binary"],
};

/** Where a file of this name belongs, or null. */
export function placeOf(name: string): { key: string; mime: string } | null {
  const place = FOLDERS[name.split(".").pop()?.toLowerCase() ?? ""];
  return place ? { key: `${place[0]}/${name}`, mime: place[1] } : null;
}

interface Kept {
  name: string;
  key: string;
  size: number;
}

function kept(): Kept[] {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "[]") as Kept[];
  } catch {
    return [];
  }
}

function keep(change: (all: Kept[]) => Kept[]): void {
  localStorage.setItem(KEPT, JSON.stringify(change(kept()).slice(-50)));
}

const Context = createContext<Given | null>(null);

interface Work {
  file: File;
  mime: string;
  tus?: Upload;
  stopped: boolean;
}

async function sha256(file: File): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function UploadsProvider({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [items, set] = useState<Item[]>(() =>
    kept().map((one, place) => ({ id: -1 - place, ...one, sent: 0, state: "lost" as const })),
  );
  const work = useRef(new Map<number, Work>());
  const next = useRef(1);
  const change = useCallback((id: number, values: Partial<Item>) => {
    set((all) => all.map((one) => (one.id === id ? { ...one, ...values } : one)));
  }, []);

  const finished = useCallback(
    (id: number, key: string, state: UploadState) => {
      change(id, { state });
      keep((all) => all.filter((one) => one.key !== key));
      work.current.delete(id);
      void client.invalidateQueries({ queryKey: ["assets"] });
      void client.invalidateQueries({ queryKey: ["facets"] });
      // What is inside is read by a job, seconds later.
      setTimeout(() => void client.invalidateQueries({ queryKey: ["assets"] }), 5000);
    },
    [change, client],
  );

  const run = useCallback(
    async (item: Item) => {
      const mine = work.current.get(item.id);
      if (!mine) return;
      const { file, mime } = mine;
      if (file.size <= HASHED && "subtle" in crypto) {
        change(item.id, { state: "checking" });
        try {
          const found = await ask<{ known: boolean; asset: { s3Key: string } | null }>("/api/assets/uploads/check", {
            json: { sha256: await sha256(file), size: file.size },
          });
          if (found.known) {
            finished(item.id, item.key, "known");
            return;
          }
        } catch {
          // It is sent, then.
        }
        if (mine.stopped) return;
      }
      change(item.id, { state: "sending" });
      const { Upload } = await import("tus-js-client");
      if (mine.stopped) return;
      const upload = new Upload(file, {
        endpoint: "/api/assets/uploads",
        chunkSize: CHUNK,
        retryDelays: [0, 500, 1000, 2000, 4000, 8000, 15000],
        removeFingerprintOnSuccess: true,
        metadata: { filename: item.key, filetype: mime },
        onProgress: (sent) => change(item.id, { sent }),
        onSuccess: () => finished(item.id, item.key, "done"),
        onError: (error) => {
          const answer = "originalResponse" in error ? error.originalResponse : null;
          const problem = answer ? problemIn(answer.getStatus(), answer.getBody()) : null;
          change(item.id, { state: "failed", code: problem?.code, reason: problem?.message ?? error.message });
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

  // At most so many at a time; the next begins when one ends.
  useEffect(() => {
    const busy = items.filter((one) => one.state === "sending" || one.state === "checking").length;
    const waiting = items.filter((one) => one.state === "waiting").slice(0, Math.max(AT_ONCE - busy, 0));
    for (const one of waiting) {
      change(one.id, { state: "checking" });
      void run(one);
    }
  }, [items, change, run]);

  const add = useCallback((files: Iterable<File>) => {
    const fresh: Item[] = [];
    for (const file of files) {
      const id = next.current++;
      const place = placeOf(file.name);
      if (!place) {
        fresh.push({ id, name: file.name, key: "", size: file.size, sent: 0, state: "failed", code: "unsupported_type" });
        continue;
      }
      work.current.set(id, { file, mime: place.mime, stopped: false });
      fresh.push({ id, name: file.name, key: place.key, size: file.size, sent: 0, state: "waiting" });
      keep((all) => [
        ...all.filter((one) => one.key !== place.key),
        { name: file.name, key: place.key, size: file.size },
      ]);
    }
    const keys = new Set(fresh.map((one) => one.key));
    set((all) => [...all.filter((one) => one.state !== "lost" || !keys.has(one.key)), ...fresh]);
  }, []);

  const pause = useCallback(
    (id: number) => {
      const mine = work.current.get(id);
      if (mine) mine.stopped = true;
      void mine?.tus?.abort();
      change(id, { state: "paused" });
    },
    [change],
  );
  const resume = useCallback(
    (id: number) => {
      const mine = work.current.get(id);
      if (!mine) return;
      work.current.set(id, { file: mine.file, mime: mine.mime, stopped: false });
      change(id, { state: "waiting", code: undefined, reason: undefined });
    },
    [change],
  );
  const cancel = useCallback((id: number) => {
    const mine = work.current.get(id);
    if (mine) mine.stopped = true;
    void mine?.tus?.abort(true).catch(() => undefined);
    work.current.delete(id);
    set((all) => {
      const one = all.find((item) => item.id === id);
      if (one) keep((rest) => rest.filter((item) => item.key !== one.key));
      return all.filter((item) => item.id !== id);
    });
  }, []);
  const clear = useCallback(() => {
    keep(() => []);
    set((all) => all.filter((one) => !["done", "known", "failed", "lost"].includes(one.state)));
  }, []);

  const given = useMemo(() => ({ items, add, pause, resume, cancel, clear }), [items, add, pause, resume, cancel, clear]);
  return <Context value={given}>{children}</Context>;
}

export function useUploads(): Given {
  const given = useContext(Context);
  if (!given) throw new Error("outside of UploadsProvider");
  return given;
}
