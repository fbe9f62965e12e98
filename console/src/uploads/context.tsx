/** The page's uploads, for its components. */
import { useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useRef, useState, useSyncExternalStore, type ReactNode } from "react";

import { onSignedOut } from "../api/http";
import { refreshAssets } from "../api/lists";
import { SESSION, useSession } from "../api/session";
import type { Item } from "./queue";
import { Uploads } from "./runner";

const Context = createContext<Uploads | null>(null);

export function UploadsProvider({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [uploads] = useState(() => new Uploads(() => void refreshAssets(client)));
  // Undefined while that is not known, also when the service does not answer.
  const user = useSession().data?.user_id;
  const before = useRef<string | null>(null);
  useEffect(() => {
    if (user === undefined) return undefined;
    // What one user was shown is not another's.
    if (before.current !== null && before.current !== user)
      client.removeQueries({ predicate: ({ queryKey }) => queryKey[0] !== SESSION[0] });
    before.current = user;
    if (user === null) uploads.signedOut();
    return user ? uploads.takeUp(user) : undefined;
  }, [client, uploads, user]);
  useEffect(() => onSignedOut(() => void client.invalidateQueries({ queryKey: SESSION })), [client]);
  useEffect(() => {
    addEventListener("online", uploads.online);
    return () => removeEventListener("online", uploads.online);
  }, [uploads]);
  return <Context value={uploads}>{children}</Context>;
}

/** What can be done. Never changes, so that whoever uses it is not rendered anew with each byte that is sent. */
export function useUploads(): Pick<Uploads, "add" | "pause" | "resume" | "cancel" | "clear"> {
  return useStore();
}

/** All of them, as they stand. */
export function useUploadItems(): readonly Item[] {
  const uploads = useStore();
  return useSyncExternalStore(uploads.subscribe, uploads.items);
}

function useStore(): Uploads {
  const given = useContext(Context);
  if (!given) throw new Error("outside of UploadsProvider");
  return given;
}
