/** What operators look after: everybody's shows, the patrol, jobs, alerts, the audit trail, health. Shapes: docs/openapi.json. */
import { ask, query } from "./http";
import type {
  AlertOut,
  AlertsOut,
  EntryOut,
  EventOut,
  FindingAction,
  FindingOut,
  FindingsOut,
  HealthOut,
  JobOut,
  JobsOut,
  PartOut,
  PatrolOut,
  PatrolRunOut,
  PatrolRunsOut,
  BroadcastOverview as ShowOut,
  OperatorOutput as ShowOutput,
  BroadcastOverviewPage as ShowsOut,
  SuspendedUserOut,
  SuspendedUsersOut,
  TimelineOut,
  TrailOut,
} from "./schema";

export type {
  AlertOut,
  EntryOut,
  EventOut,
  FindingAction,
  FindingOut,
  HealthOut,
  JobOut,
  PartOut,
  PatrolRunOut,
  ShowOut,
  ShowOutput,
};

/** A list's page, and where the next one goes on. */
export interface Page<T> {
  items: T[];
  next: string | null;
}

const PAGE = 20;

const page = <T>(items: T[], next: string | number | null): Page<T> => ({
  items,
  next: next === null ? null : String(next),
});

export const getHealth = (signal?: AbortSignal) => ask<HealthOut>("/api/health", { signal });

export interface ShowsAsked {
  state: "on_air" | "over";
  room?: string;
  owner?: string;
}

export async function listShows({ state, room, owner }: ShowsAsked, before: string | null, signal?: AbortSignal) {
  const asked = query({ state, room_id: room, owner, before: before ?? undefined, limit: PAGE });
  const found = await ask<ShowsOut>(`/api/live/broadcasts/all${asked}`, { signal });
  return page(found.data, found.next);
}

/** One show; null when there is none with this id. */
export async function getShow(id: string, signal?: AbortSignal): Promise<ShowOut | null> {
  const found = await ask<ShowsOut>(`/api/live/broadcasts/all${query({ session_id: id, limit: 1 })}`, { signal });
  return found.data[0] ?? null;
}

const TIMELINE_PAGES = 20;

/** All that happened in a show, oldest first; of a very long one, the first ten thousand events. */
export async function wholeTimeline(id: string, signal?: AbortSignal): Promise<EventOut[]> {
  const found: EventOut[] = [];
  let after = 0;
  for (let count = 0; count < TIMELINE_PAGES; count += 1) {
    const one = await ask<TimelineOut>(`/api/live/broadcasts/${id}/timeline${query({ after, limit: 500 })}`, {
      signal,
    });
    found.push(...one.data);
    if (one.next_after === null) break;
    after = one.next_after;
  }
  return found;
}

export const endShowById = (id: string) => ask<unknown>("/api/live/stop", { json: { session_id: id } });

export const getPatrol = (signal?: AbortSignal) =>
  ask<PatrolOut>(`/api/assets/patrol${query({ limit: 1 })}`, { signal });

export async function listFindings(
  asked: { kind?: string; closed?: boolean },
  before: string | null,
  signal?: AbortSignal,
) {
  const narrowed = query({ kind: asked.kind, resolved: asked.closed, limit: PAGE, before: before ?? undefined });
  const found = await ask<FindingsOut>(`/api/assets/findings${narrowed}`, { signal });
  return page(found.findings, found.next);
}

export async function listRuns(before: string | null, signal?: AbortSignal) {
  const found = await ask<PatrolRunsOut>(
    `/api/assets/patrol/runs${query({ limit: PAGE, before: before ?? undefined })}`,
    { signal },
  );
  return page(found.runs, found.next);
}

export const runPatrol = (dryRun: boolean) => ask<void>("/api/assets/patrol/run", { json: { dry_run: dryRun } });

export const actOnFinding = (id: number, action: FindingAction) =>
  ask<unknown>(`/api/assets/findings/${id}/${action}`, { method: "POST" });

export async function listJobs(asked: { status?: string; task?: string }, before: string | null, signal?: AbortSignal) {
  const found = await ask<JobsOut>(`/api/jobs${query({ ...asked, before: before ?? undefined, limit: PAGE })}`, {
    signal,
  });
  return page(found.jobs, found.next);
}

export const retryJob = (id: number) => ask<void>(`/api/jobs/${id}/retry`, { method: "POST" });

export const cancelJob = (id: number) => ask<void>(`/api/jobs/${id}/cancel`, { method: "POST" });

export async function listAlerts(open: boolean, before: string | null, signal?: AbortSignal) {
  const asked = query({ open: String(open), before: before ?? undefined, limit: PAGE });
  const found = await ask<AlertsOut>(`/api/alerts${asked}`, { signal });
  return page(found.alerts, found.next);
}

export const sendTestAlert = () => ask<void>("/api/alerts/test", { method: "POST" });

export interface AuditAsked {
  actor?: string;
  action?: string;
  room?: string;
  subject?: string;
  result?: string;
  from?: string;
  to?: string;
}

const audited = ({ room, subject, ...rest }: AuditAsked) => ({
  ...rest,
  room_id: room,
  subject: room ? undefined : subject,
});

export async function listAudit(asked: AuditAsked, before: string | null, signal?: AbortSignal) {
  const found = await ask<TrailOut>(
    `/api/audit${query({ ...audited(asked), before: before ?? undefined, limit: 50 })}`,
    { signal },
  );
  return page(found.entries, found.next);
}

/** Where the same entries are as a file. */
export const auditCsv = (asked: AuditAsked) => `/api/audit${query({ ...audited(asked), format: "csv" })}`;

/** Suspended users, the newest first. */
export const listSuspended = async (signal?: AbortSignal) =>
  (await ask<SuspendedUsersOut>("/api/operations/users/suspended", { signal })).data;

export const suspendUser = (user: string, reason: string) =>
  ask<SuspendedUserOut>(`/api/operations/users/${encodeURIComponent(user)}/suspend`, { json: { reason } });

export const restoreUser = (user: string) =>
  ask<null>(`/api/operations/users/${encodeURIComponent(user)}/restore`, { method: "POST" });

export const takeDown = (asset: string, reason: string) =>
  ask<null>(`/api/operations/assets/${asset}/take_down`, { json: { reason } });

export const putBack = (asset: string) => ask<null>(`/api/operations/assets/${asset}/put_back`, { method: "POST" });
