/**
 * The lists of cards in the cache. They may be 100,000 cards long, so a change never fetches one anew from its beginning to
 * its end: the card that changed is changed in place, and what is new comes with the first page.
 */
import type { InfiniteData, QueryClient } from "@tanstack/react-query";

import { listAssets, type Card, type CardPage, type Filters } from "./library";

export type CachedList = InfiniteData<CardPage, string | null>;

const LIST = ["assets", "list"] as const;
/** So many pages are fetched anew without a thought. */
const FEW = 3;

export function listKey(filters: Filters, sort: string) {
  return [...LIST, filters, sort] as const;
}

/** Changes a card wherever it is listed; `null` takes it away. */
export function changeCard(client: QueryClient, id: string, change: (card: Card) => Card | null): void {
  client.setQueriesData<CachedList>({ queryKey: LIST }, (list) => {
    if (!list) return list;
    let found = false;
    const pages = list.pages.map((page) => {
      const place = page.items.findIndex((card) => card.id === id);
      const card = page.items[place];
      if (!card) return page;
      found = true;
      const changed = change(card);
      return { ...page, items: changed ? page.items.with(place, changed) : page.items.toSpliced(place, 1) };
    });
    return found ? { ...list, pages } : list;
  });
}

/** Whatever is known of assets is asked for again; of long lists only the first page. */
export async function refreshAssets(client: QueryClient): Promise<void> {
  const long = client
    .getQueryCache()
    .findAll({ queryKey: LIST })
    .filter((query) => ((query.state.data as CachedList | undefined)?.pages.length ?? 0) > FEW);
  await Promise.all([
    client.invalidateQueries({ queryKey: ["assets"], predicate: (query) => !long.includes(query) }),
    client.invalidateQueries({ queryKey: ["facets"] }),
    ...long.map(async (query) => {
      if (!query.isActive()) {
        client.removeQueries({ queryKey: query.queryKey, exact: true });
        return;
      }
      const [, , filters, sort] = query.queryKey as ReturnType<typeof listKey>;
      const first = await listAssets(filters, sort, null).catch(() => null);
      if (first) client.setQueryData<CachedList>(query.queryKey, (list) => list && withFirst(list, first));
    }),
  ]);
}

function withFirst(list: CachedList, first: CardPage): CachedList {
  const fresh = new Set(first.items.map((card) => card.id));
  const rest = list.pages.map((page) =>
    page.items.some((card) => fresh.has(card.id))
      ? { ...page, items: page.items.filter((card) => !fresh.has(card.id)) }
      : page,
  );
  const [front, ...others] = rest;
  return { ...list, pages: front ? [{ ...front, items: [...first.items, ...front.items] }, ...others] : list.pages };
}
