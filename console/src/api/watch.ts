/** Joining a room as somebody who only watches. */
import { ask } from "./http";
import { viewerToken } from "./live";
import type { InvitationMade, TokenOut } from "./schema";

export type Joining = TokenOut;

const INVITATION = "invitation";

/** The invitation in the page's address. It stands behind the `#`: no server and no log ever gets it. */
export function invitationIn(hash: string): string | null {
  return new URLSearchParams(hash.replace(/^#/, "")).get(INVITATION);
}

/** A way into a room: by invitation where there is one, else by who is signed in. */
export const joinToWatch = (room: string, invitation: string | null): Promise<Joining> =>
  invitation ? ask<TokenOut>("/api/live/watch", { json: { invitation } }) : viewerToken(room);

/** A link for others, from whoever may give one: the room's owner, or an operator. */
export async function invite(room: string): Promise<string> {
  const path = `/api/live/rooms/${encodeURIComponent(room)}/invitations`;
  const { invitation } = await ask<InvitationMade>(path, { json: {} });
  return `${location.origin}/watch/${encodeURIComponent(room)}#${INVITATION}=${invitation}`;
}
