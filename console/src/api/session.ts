/** Who is signed in, and what the console may offer. Answered by src/butai/operations/console.py. */
import { useQuery } from "@tanstack/react-query";

import { ask } from "./http";
import type { SessionOut } from "./schema";

export type Session = SessionOut;

export const SESSION = ["session"] as const;

export function useSession() {
  return useQuery({ queryKey: SESSION, queryFn: () => ask<Session>("/api/session"), staleTime: 60_000 });
}
