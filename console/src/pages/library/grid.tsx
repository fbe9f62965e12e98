/** The cards, of which only those near the window are in the document: 100,000 of them scroll like a hundred. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { defaultRangeExtractor, useWindowVirtualizer, type Range } from "@tanstack/react-virtual";
import {
  memo,
  useCallback,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
  type FocusEvent,
  type KeyboardEvent,
} from "react";

import { listAssets, type Filters } from "../../api/library";
import { listKey } from "../../api/lists";
import { useTexts } from "../../i18n";
import { CardView } from "./card";
import css from "./grid.module.css";
import { problemText } from "../../i18n/problems";

const NARROWEST = 172;
const NARROWEST_PHONE = 140;
const GAP = 14;
const FOOT = 62;
/** So many rows before the end the next page is asked for. */
const AHEAD = 16;

export const Grid = memo(function Grid({
  filters,
  sort,
  onOpen,
}: {
  filters: Filters;
  sort: string;
  onOpen: (id: string) => void;
}) {
  const { t } = useTexts();
  const box = useRef<HTMLDivElement>(null);
  const [{ width, top }, setPlace] = useState({ width: 0, top: 0 });
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = () => {
      const found = { width: element.clientWidth, top: Math.round(element.getBoundingClientRect().top + scrollY) };
      setPlace((now) => (now.width === found.width && now.top === found.top ? now : found));
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    // The filters above it grow and shrink, too.
    if (element.parentElement) observer.observe(element.parentElement);
    return () => observer.disconnect();
  }, []);
  const narrowest = width < 500 ? NARROWEST_PHONE : NARROWEST;
  const columns = Math.max(Math.floor((width + GAP) / (narrowest + GAP)), 2);
  const cell = Math.floor((width - GAP * (columns - 1)) / columns);

  const list = useInfiniteQuery({
    queryKey: listKey(filters, sort),
    queryFn: ({ pageParam, signal }) => listAssets(filters, sort, pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    // Comparing 100,000 cards with those of a moment ago takes longer than drawing what is seen of them.
    structuralSharing: false,
  });
  const pages = list.data?.pages;
  const cards = useMemo(() => pages?.flatMap((page) => page.items) ?? [], [pages]);
  const rows = Math.ceil(cards.length / columns);
  const height = cell + FOOT + GAP;

  /** Which card the Tab key stops at; arrows go on from it. */
  const [active, setActive] = useState(0);
  const activeRow = Math.floor(Math.min(active, Math.max(cards.length - 1, 0)) / columns);
  const [focused, setFocused] = useState(false);
  // oxlint-disable-next-line react/incompatible-library -- the React Compiler, which would skip this one, is not used
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => height,
    overscan: 4,
    scrollMargin: top,
    // What has the focus stays in the document wherever the page is scrolled to.
    rangeExtractor: useCallback(
      (range: Range) => {
        const shown = defaultRangeExtractor(range);
        if (!focused || activeRow >= range.count || (activeRow >= (shown[0] ?? 0) && activeRow <= (shown.at(-1) ?? -1)))
          return shown;
        return [...shown, activeRow].toSorted((a, b) => a - b);
      },
      [focused, activeRow],
    ),
  });
  useLayoutEffect(() => virtual.measure(), [height, virtual]);
  const shown = virtual.getVirtualItems();
  const reached = virtual.range?.endIndex ?? 0;
  const { hasNextPage, isFetchingNextPage, isError, fetchNextPage } = list;
  useEffect(() => {
    if (hasNextPage && !isFetchingNextPage && !isError && reached >= rows - AHEAD) void fetchNextPage();
  }, [reached, rows, hasNextPage, isFetchingNextPage, isError, fetchNextPage]);

  // Another list begins at its top.
  const key = JSON.stringify([filters, sort]);
  const before = useRef(key);
  useLayoutEffect(() => {
    if (before.current === key) return;
    before.current = key;
    setActive(0);
    if (scrollY > top) scrollTo({ top: Math.max(top - 160, 0) });
  }, [key, top]);

  const move = (event: KeyboardEvent<HTMLDivElement>) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const screen = columns * Math.max(Math.floor(innerHeight / height), 1);
    const step = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
      PageDown: screen,
      PageUp: -screen,
    }[event.key];
    const last = cards.length - 1;
    let to: number;
    if (event.key === "Home") to = 0;
    else if (event.key === "End") to = last;
    else if (step === undefined) return;
    else if (Math.abs(step) > 1) {
      to = active + step;
      // Up and down stay in their column; from the last whole row one gets to the one that is not.
      if (to < 0) to = Math.abs(step) === columns ? active : active % columns;
      if (to > last) to = activeRow < Math.floor(last / columns) ? last : active;
    } else to = Math.min(Math.max(active + step, 0), last);
    event.preventDefault();
    if (to === active) return;
    setActive(to);
    virtual.scrollToIndex(Math.floor(to / columns), { align: "auto" });
    wanted.current = to;
  };
  // The card may not be in the document before the next drawing.
  const wanted = useRef<number | null>(null);
  useEffect(() => {
    if (wanted.current === null) return;
    const card = box.current?.querySelector<HTMLElement>(`[data-place="${wanted.current}"]`);
    if (!card) return;
    wanted.current = null;
    card.focus({ preventScroll: true });
  });
  const focus = (event: FocusEvent<HTMLDivElement>) => {
    const place = Number((event.target as HTMLElement).dataset.place);
    setFocused(true);
    if (!Number.isNaN(place)) setActive(place);
  };

  // When what Tab would stop at is far away, it stops at the first that is seen.
  const visible = shown.some((row) => row.index === activeRow);
  const stop = visible ? Math.min(active, Math.max(cards.length - 1, 0)) : (shown[0]?.index ?? 0) * columns;
  const narrowed = Object.keys(filters).some((name) => name !== "type");
  return (
    <div ref={box} className={css.box} aria-busy={list.isFetching}>
      {list.isSuccess && !cards.length ? <Nothing narrowed={narrowed} trash={Boolean(filters.trashed)} /> : null}
      {list.isError ? (
        <div className="empty" role="alert">
          <p>{problemText(list.error, t)}</p>
          <button type="button" onClick={() => void (cards.length ? fetchNextPage() : list.refetch())}>
            {t.uploads.retry}
          </button>
        </div>
      ) : null}
      {cards.length && width ? (
        // oxlint-disable-next-line jsx-a11y/no-noninteractive-element-interactions -- the cards inside have the focus
        <div
          className={css.grid}
          role="list"
          aria-label={t.library.grid}
          style={{ height: virtual.getTotalSize() }}
          onKeyDown={move}
          onFocus={focus}
          onBlur={(event) => {
            if (!event.currentTarget.contains(event.relatedTarget)) setFocused(false);
          }}
        >
          {shown.map((row) =>
            cards.slice(row.index * columns, (row.index + 1) * columns).map((card, column) => {
              const place = row.index * columns + column;
              return (
                <div
                  key={card.id}
                  role="listitem"
                  aria-posinset={place + 1}
                  aria-setsize={hasNextPage ? -1 : cards.length}
                  className={css.cell}
                  style={{
                    width: cell,
                    height: cell + FOOT,
                    transform: `translate(${column * (cell + GAP)}px, ${row.start - virtual.options.scrollMargin}px)`,
                  }}
                >
                  <CardView card={card} place={place} stop={place === stop} onOpen={onOpen} />
                </div>
              );
            }),
          )}
        </div>
      ) : null}
      {list.isPending ? <Skeletons columns={columns} cell={cell} /> : null}
      {isFetchingNextPage ? <p className={`${css.more} dim`}>{t.library.loadingMore}</p> : null}
    </div>
  );
});

function Nothing({ narrowed, trash }: { narrowed: boolean; trash: boolean }) {
  const { t } = useTexts();
  return (
    <div className="empty">
      <h2>{trash ? t.library.emptyTrash : narrowed ? t.library.emptySearchTitle : t.library.emptyTitle}</h2>
      {trash ? null : <p>{narrowed ? t.library.emptySearch : t.library.empty}</p>}
    </div>
  );
}

function Skeletons({ columns, cell }: { columns: number; cell: number }) {
  const { t } = useTexts();
  return (
    <div className={css.skeletons} style={{ gridTemplateColumns: `repeat(${columns}, 1fr)`, gap: GAP }}>
      <span className="visually-hidden" role="status">
        {t.loading}
      </span>
      {Array.from({ length: columns * 2 }, (_, place) => (
        <div key={place} className={css.skeleton} style={{ height: cell + FOOT }} />
      ))}
    </div>
  );
}
