/** The library's address: what it is narrowed by, how it is sorted, what is opened. */
import { TYPES, type AssetType, type Filters, type Status } from "../../api/library";

export interface LibrarySearch extends Filters {
  sort?: string;
  open?: string;
}

const STATES: readonly Status[] = ["uploading", "ready", "failed", "missing"];
const SORTS = ["-created_at", "created_at", "-updated_at", "name", "-size", "size"];

export function readSearch(given: Record<string, unknown>): LibrarySearch {
  const text = (name: string) => {
    const value = given[name];
    return typeof value === "string" && value ? value : typeof value === "number" ? String(value) : undefined;
  };
  const one = <T extends string>(name: string, of: readonly T[]) => of.find((value) => value === given[name]);
  const search: LibrarySearch = {
    type: one<AssetType>("type", TYPES),
    q: text("q"),
    owner: one("owner", ["me"] as const),
    status: one("status", STATES),
    visibility: one("visibility", ["public", "private"] as const),
    trashed: given.trashed === true || undefined,
    commercial: text("commercial"),
    redistribution: text("redistribution"),
    modification: text("modification"),
    credit: text("credit"),
    format: text("format"),
    tag: text("tag"),
    sort: one("sort", SORTS),
    open: text("open"),
  };
  for (const name of Object.keys(search) as (keyof LibrarySearch)[])
    if (search[name] === undefined) delete search[name];
  return search;
}
