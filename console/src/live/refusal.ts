/** What a viewer is shown when the service did not let them into a room. */
import type { ApiError } from "../api/http";

/** `refused`: this viewer is not let in. `closed`: no viewer is, until the host comes back. `failed`: it may work later, or something is broken. */
export function stateAfter(error: ApiError): "refused" | "closed" | "failed" {
  if (error.code === "room_closed") return "closed";
  return [401, 403, 404].includes(error.status) ? "refused" : "failed";
}
