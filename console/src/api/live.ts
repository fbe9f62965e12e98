/** Going live: rooms, destinations, shows. Shapes come from docs/openapi.json. */
import { ask, query } from "./http";
import type {
  DestinationEdit,
  DestinationIn,
  DestinationOut,
  ErrorOut,
  EventOut,
  HistoryOut,
  IngressesOut,
  OutputOut,
  RoomListed,
  RoomOut,
  StatusOut,
  StepOut,
  TokenOut,
} from "./schema";

export type { DestinationIn, DestinationOut, ErrorOut, EventOut, OutputOut, RoomListed, StatusOut, StepOut };
export type Preset = "480p30" | "720p30" | "720p60" | "1080p30" | "1080p60";
export type Figures = Record<string, NonNullable<OutputOut["metrics"]>>;

export const listRooms = (signal?: AbortSignal) => ask<{ data: RoomListed[] }>("/api/live/rooms", { signal });

export const makeRoom = () => ask<RoomOut>("/api/live/rooms", { json: {} });

const at = (room: string) => `/api/live/rooms/${encodeURIComponent(room)}`;

export const hostToken = (room: string) => ask<TokenOut>(`${at(room)}/tokens`, { json: { role: "host" } });

export const viewerToken = (room: string) => ask<TokenOut>(`${at(room)}/tokens`, { json: { role: "viewer" } });

/** Programs like OBS that may send into a room. */
export const waysInto = (room: string) => ask<IngressesOut>(`${at(room)}/ingress`);

export const listDestinations = (signal?: AbortSignal) =>
  ask<{ data: DestinationOut[] }>("/api/live/destinations", { signal });

export const addDestination = (wanted: DestinationIn) =>
  ask<DestinationOut>("/api/live/destinations", { json: wanted });

export const changeDestination = (id: string, edit: DestinationEdit) =>
  ask<DestinationOut>(`/api/live/destinations/${id}`, { method: "PATCH", json: edit });

export const removeDestination = (id: string) => ask<void>(`/api/live/destinations/${id}`, { method: "DELETE" });

export const testDestination = (id: string) =>
  ask<{ ok: boolean; steps: StepOut[] }>(`/api/live/destinations/${id}/test`, { method: "POST" });

export const getStatus = (room: string, signal?: AbortSignal) =>
  ask<StatusOut>(`/api/live/status${query({ room_id: room })}`, { signal });

/** The stream of a room's events; see live/use-show.ts. */
export const eventsOf = (room: string) => `/api/live/events${query({ room_id: room })}`;

export const goLive = (room: string, destinations: string[], preset: Preset) =>
  ask<StatusOut>("/api/live/start", { json: { room_id: room, destination_ids: destinations, preset } });

export const endShow = (room: string) => ask<StatusOut>("/api/live/stop", { json: { room_id: room } });

export const retryOutput = (id: string) => ask<StatusOut>(`/api/live/outputs/${id}/retry`, { method: "POST" });

export const stopOutput = (id: string) => ask<StatusOut>(`/api/live/outputs/${id}/stop`, { method: "POST" });

export const addOutputs = (session: string, destinations: string[]) =>
  ask<StatusOut>(`/api/live/broadcasts/${session}/outputs`, { json: { destination_ids: destinations } });

export const showsOf = (room: string, signal?: AbortSignal) =>
  ask<HistoryOut>(`/api/live/broadcasts${query({ room_id: room })}`, { signal });

export const timelineOf = (session: string, signal?: AbortSignal) =>
  ask<{ data: EventOut[]; next_after: number | null }>(`/api/live/broadcasts/${session}/timeline`, { signal });

/** Whether a show runs, be it that none of its platforms is well: it can be ended, and its outputs tried again. */
export const isOnAir = (status: StatusOut | null): status is StatusOut & { session_id: string } =>
  status !== null && status.session_id !== null && status.ended_at === null;

/** Whether an output still has, or wants, its platform. */
export const isUp = (output: OutputOut): boolean => output.state !== "ended" && output.state !== "stopping";
