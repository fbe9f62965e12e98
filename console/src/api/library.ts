/** The library's part of the API: one function for each thing that a page asks for. Shapes come from docs/openapi.json. */
import { ask, query } from "./http";
import type { AssetEdit, AssetOut, AssetPage, FacetsOut, WaveformOut } from "./schema";

export type { AssetEdit, AssetOut, FacetsOut, WaveformOut };
export type AssetType = AssetOut["type"];
export type Status = AssetOut["status"];

export const TYPES: readonly AssetType[] = ["vrm", "animation", "bgm", "hdr", "scene"];

/** What a list is narrowed by. All of it is part of the page's address. */
export interface Filters {
  type?: AssetType;
  q?: string;
  owner?: "me";
  status?: Status;
  visibility?: "public" | "private";
  trashed?: boolean;
  commercial?: string;
  redistribution?: string;
  modification?: string;
  credit?: string;
  format?: string;
  tag?: string;
}

/** What a card shows. Lists hold up to 100,000 of them, so what is inside the files stays out. */
export interface Card {
  id: string;
  name: string;
  s3Key: string;
  url: string;
  category: AssetType;
  thumbnail: string | null;
  size: number;
  visibility: "public" | "private";
  status: Status;
  ownedByMe: boolean;
  duration: number | null;
  triangles: number | null;
  commercial: string | null;
  warning: boolean;
  updatedAt: string;
}

export interface CardPage {
  items: Card[];
  next: string | null;
}

/** The first page is what one sees; those after it are for those who scroll. */
const FIRST_PAGE = 100;
const NEXT_PAGES = 200;

function parameters(filters: Filters) {
  return {
    type: filters.type,
    q: filters.q?.trim(),
    owner: filters.owner,
    status: filters.status,
    visibility: filters.visibility,
    trashed: filters.trashed,
    "licence.commercial": filters.commercial,
    "licence.redistribution": filters.redistribution,
    "licence.modification": filters.modification,
    "licence.credit": filters.credit,
    format: filters.format,
    tag: filters.tag,
  };
}

interface Item {
  [name: string]: unknown;
}

function card(item: Item): Card {
  const facts = (item.facts ?? {}) as { licence?: { commercial?: string } };
  return {
    id: String(item.id),
    name: String(item.name),
    s3Key: String(item.s3Key),
    url: String(item.url),
    category: item.category as AssetType,
    thumbnail: typeof item.thumbnail === "string" ? item.thumbnail : null,
    size: Number(item.size ?? 0),
    visibility: item.visibility as Card["visibility"],
    status: item.status as Status,
    ownedByMe: item.ownedByMe === true,
    duration: typeof item.duration === "number" && item.duration > 0 ? item.duration : null,
    triangles: typeof item.triangles === "number" ? item.triangles : null,
    commercial: facts.licence?.commercial ?? null,
    warning: Array.isArray(item.warnings) && item.warnings.length > 0,
    updatedAt: String(item.updatedAt),
  };
}

/** The card of an asset whose details are known. */
export function cardOf(asset: AssetOut): Card {
  return card({
    ...asset,
    name: asset.display_name,
    s3Key: asset.s3_key,
    category: asset.type,
    size: asset.size_bytes,
    duration: asset.duration_seconds,
    updatedAt: asset.updated_at,
    ownedByMe: true,
  });
}

export async function listAssets(
  filters: Filters,
  sort: string,
  cursor: string | null,
  signal?: AbortSignal,
): Promise<CardPage> {
  const asked = query({
    ...parameters(filters),
    sort,
    limit: cursor ? NEXT_PAGES : FIRST_PAGE,
    cursor: cursor ?? undefined,
  });
  const page = await ask<AssetPage>(`/api/assets${asked}`, { signal });
  return { items: page.items.map(card), next: page.next };
}

/** How many match: exact up to 10,000. */
export async function countAssets(filters: Filters, signal?: AbortSignal): Promise<{ total: number; exact: boolean }> {
  const page = await ask<AssetPage>(`/api/assets${query({ ...parameters(filters), limit: 1, total: "estimate" })}`, {
    signal,
  });
  return { total: page.total ?? 0, exact: page.total_is_exact };
}

export function facetsOf(filters: Filters, signal?: AbortSignal): Promise<FacetsOut> {
  return ask<FacetsOut>(`/api/assets/facets${query(parameters(filters))}`, { signal });
}

export function getAsset(id: string, signal?: AbortSignal): Promise<AssetOut> {
  return ask<AssetOut>(`/api/assets/${id}`, { signal });
}

export function editAsset(id: string, edit: AssetEdit): Promise<AssetOut> {
  return ask<AssetOut>(`/api/assets/${id}`, { method: "PATCH", json: edit });
}

export function trashAsset(id: string): Promise<void> {
  return ask<void>(`/api/assets/${id}`, { method: "DELETE" });
}

export function restoreAsset(id: string): Promise<AssetOut> {
  return ask<AssetOut>(`/api/assets/${id}/restore`, { method: "POST" });
}

/** Removes for good what is in the trash. */
export function purgeAsset(id: string): Promise<void> {
  return ask<void>(`/api/assets/${id}/purge`, { method: "POST" });
}

export function getWaveform(id: string, signal?: AbortSignal): Promise<WaveformOut> {
  return ask<WaveformOut>(`/api/assets/${id}/waveform`, { signal });
}

/** Keeps a picture as the thumbnail of the file under `key`: the sidecar `<stem>_thumb.png` beside it. */
export async function storeThumbnail(key: string, picture: Blob): Promise<void> {
  const form = new FormData();
  form.set("fileName", `${key.replace(/\.[^./]*$/, "")}_thumb.png`);
  form.set("fileType", "image/png");
  form.set("file", picture, "thumb.png");
  await ask("/api/s3/upload", { form });
}
