/** A list that is asked for page by page and looked at again every few seconds: loading, failed, empty, more. */
import { useInfiniteQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";

import type { Page } from "../../api/operations";
import { useOperationsTexts } from "./texts";
import css from "./listed.module.css";
import { problemText } from "../../i18n/problems";

/** Milliseconds between two looks, while the page is seen. */
export const LOOK = 3000;

export const KEY = "operations";

export function usePages<T>(
  key: readonly unknown[],
  load: (before: string | null, signal: AbortSignal) => Promise<Page<T>>,
) {
  return useInfiniteQuery({
    queryKey: [KEY, ...key],
    queryFn: ({ pageParam, signal }) => load(pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    // All pages are asked for again: who has many of them open is told less often.
    refetchInterval: (query) => LOOK * Math.max(query.state.data?.pages.length ?? 1, 1),
    staleTime: LOOK,
  });
}

export function Listed<T>({
  list,
  empty,
  children,
}: {
  list: ReturnType<typeof usePages<T>>;
  empty: string;
  children: (rows: T[]) => ReactNode;
}) {
  const { t, o } = useOperationsTexts();
  const rows = list.data?.pages.flatMap((page) => page.items) ?? [];
  if (list.isPending) return <p className="dim">{t.loading}</p>;
  if (list.isError && !list.data)
    return (
      <div className="notice bad" role="alert">
        <p>{problemText(list.error, t)}</p>
        <button type="button" onClick={() => void list.refetch()}>
          {t.uploads.retry}
        </button>
      </div>
    );
  return (
    <>
      {list.isError ? (
        <p className="notice warn" role="alert">
          {o.old}
        </p>
      ) : null}
      {rows.length ? children(rows) : <p className={`dim ${css.empty}`}>{empty}</p>}
      {list.hasNextPage ? (
        <div className="row">
          <button type="button" disabled={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
            {list.isFetchingNextPage ? t.loading : o.more}
          </button>
        </div>
      ) : null}
    </>
  );
}
