/**
 * Uploads under way, kept in the browser's database with their files: after a reload they go on by themselves. Of a file that
 * is too large for that, or in a browser that keeps nothing, the name alone is kept, and the file has to be chosen again.
 * They are kept for the user who is signed in, and forgotten when that user no longer is.
 */
export interface Kept {
  id: string;
  user: string;
  name: string;
  key: string;
  size: number;
  paused: boolean;
  file: File | null;
}

const NAME = "butai";
/** What is known of each upload, and the files beside it: a change of the first does not write the second anew. */
const UPLOADS = "uploads";
const FILES = "files";
/** The browser copies what it keeps; a larger file would rather be chosen again than be on the disk twice. */
const LARGEST = 1024 ** 3;

type Known = Omit<Kept, "file">;

let opened: Promise<IDBDatabase> | undefined;

function database(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, 1);
    asked.addEventListener("upgradeneeded", () => {
      asked.result.createObjectStore(UPLOADS, { keyPath: "id" });
      asked.result.createObjectStore(FILES);
    });
    asked.addEventListener("success", () => resolve(asked.result));
    asked.addEventListener("error", () => reject(asked.error ?? new Error("no database")));
  });
  return opened;
}

async function run<T>(
  mode: IDBTransactionMode,
  work: (uploads: IDBObjectStore, files: IDBObjectStore) => IDBRequest<T>,
): Promise<T> {
  const transaction = (await database()).transaction([UPLOADS, FILES], mode);
  return new Promise((resolve, reject) => {
    const asked = work(transaction.objectStore(UPLOADS), transaction.objectStore(FILES));
    transaction.addEventListener("complete", () => resolve(asked.result));
    transaction.addEventListener("abort", () => reject(transaction.error ?? new Error("nothing is kept")));
  });
}

/** Keeps the upload, with its file if there is room. Says whether the file is kept; never throws. */
export async function keep({ file, ...known }: Kept): Promise<boolean> {
  try {
    await run("readwrite", (uploads) => uploads.put(known));
    if (!file || !(await hasRoom(file.size))) return false;
    const put = await run<unknown>("readwrite", (uploads, files) => {
      const asked = uploads.get(known.id);
      // It may have been forgotten meanwhile.
      asked.addEventListener("success", () => asked.result && files.put(file, known.id));
      return asked;
    });
    return put !== undefined;
  } catch {
    // A private window, or too large for this browser after all.
    return false;
  }
}

async function hasRoom(size: number): Promise<boolean> {
  if (size > LARGEST) return false;
  const { quota, usage } = (await navigator.storage?.estimate?.()) ?? {};
  return quota === undefined || size < (quota - (usage ?? 0)) / 2;
}

export async function forget(id: string): Promise<void> {
  await run("readwrite", (uploads, files) => {
    files.delete(id);
    return uploads.delete(id);
  }).catch(() => undefined);
}

export async function pauseKept(id: string, paused: boolean): Promise<void> {
  try {
    const known = await run<Known | undefined>(
      "readonly",
      (uploads) => uploads.get(id) as IDBRequest<Known | undefined>,
    );
    if (known) await run("readwrite", (uploads) => uploads.put({ ...known, paused }));
  } catch {
    // It goes on by itself after a reload, then.
  }
}

export async function find(id: string): Promise<Kept | null> {
  try {
    const known = await run<Known | undefined>(
      "readonly",
      (uploads) => uploads.get(id) as IDBRequest<Known | undefined>,
    );
    if (!known) return null;
    const file = await run<File | undefined>("readonly", (_, files) => files.get(id) as IDBRequest<File | undefined>);
    return { ...known, file: file ?? null };
  } catch {
    return null;
  }
}

/** What tus-js-client calls an upload in the browser's storage, where it keeps the addresses of those under way. */
export const fingerprint = (user: string, key: string, file: File) =>
  `${encodeURIComponent(user)} ${key} ${file.size} ${file.lastModified}`;

/** Forgets the uploads of all other users with their files, and of all users for null: the next one finds none. */
export async function forgetOthers(user: string | null): Promise<void> {
  try {
    const own = user === null ? null : `tus::${encodeURIComponent(user)} `;
    for (const name of Object.keys(localStorage))
      if (name.startsWith("tus::") && (own === null || !name.startsWith(own))) localStorage.removeItem(name);
    const all = await run<Known[]>("readonly", (uploads) => uploads.getAll() as IDBRequest<Known[]>);
    await Promise.all(all.filter((one) => one.user !== user).map((one) => forget(one.id)));
  } catch {
    // Such a browser keeps nothing.
  }
}

/** Of this user, oldest first. */
export async function keptBy(user: string): Promise<string[]> {
  try {
    const all = await run<Known[]>("readonly", (uploads) => uploads.getAll() as IDBRequest<Known[]>);
    return all
      .filter((one) => one.user === user)
      .map((one) => one.id)
      .toSorted();
  } catch {
    return [];
  }
}

/**
 * Does `work` while no other tab does so for the same upload: waits for a tab that does. Where the browser has no locks
 * (they need HTTPS), it is done at once.
 */
export async function alone(id: string, work: () => Promise<void>): Promise<void> {
  if (!navigator.locks) return work();
  await navigator.locks.request(`butai.upload.${id}`, work);
}
