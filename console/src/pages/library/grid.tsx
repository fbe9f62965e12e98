/** The cards, of which only those near the window are in the document: 100,000 of them scroll like a hundred. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { memo, useEffect, useLayoutEffect, useMemo, useRef, useState, type KeyboardEvent } from "react";

import { listAssets, type Card, type Filters } from "../../api/library";
import { bytes, clock, useTexts } from "../../i18n";

const NARROWEST = 168;
const GAP = 12;
const FOOT = 66;

export function Grid({ filters, sort, onOpen }: { filters: Filters; sort: string; onOpen: (id: string) => void }) {
  const { t } = useTexts();
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    setWidth(element.clientWidth);
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const columns = Math.max(Math.floor((width + GAP) / (NARROWEST + GAP)), 2);
  const cell = Math.floor((width - GAP * (columns - 1)) / columns);

  const list = useInfiniteQuery({
    queryKey: ["assets", "list", filters, sort],
    queryFn: ({ pageParam, signal }) => listAssets(filters, sort, pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.nextCursor,
  });
  const cards = useMemo(() => list.data?.pages.flatMap((page) => page.items) ?? [], [list.data]);
  const rows = Math.ceil(cards.length / columns);
  const height = cell + FOOT + GAP;
  const virtual = useWindowVirtualizer({
    count: rows,
    estimateSize: () => height,
    overscan: 4,
    scrollMargin: box.current?.offsetTop ?? 0,
  });
  useEffect(() => virtual.measure(), [height, virtual]);
  const shown = virtual.getVirtualItems();
  const last = shown.at(-1)?.index ?? 0;
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  useEffect(() => {
    if (hasNextPage && !isFetchingNextPage && last >= rows - 12) void fetchNextPage();
  }, [last, rows, hasNextPage, isFetchingNextPage, fetchNextPage]);

  // One stop for the Tab key; arrows go from card to card.
  const move = (event: KeyboardEvent<HTMLDivElement>) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (!step) return;
    const place = Number((event.target as HTMLElement).dataset.place);
    const to = place + step;
    if (Number.isNaN(to) || to < 0 || to >= cards.length) return;
    event.preventDefault();
    virtual.scrollToIndex(Math.floor(to / columns));
    requestAnimationFrame(() => box.current?.querySelector<HTMLElement>(`[data-place="${to}"]`)?.focus());
  };

  const narrowed = Object.keys(filters).length > 0;
  return (
    <div ref={box} className="grid-box">
      {list.isSuccess && !cards.length ? <p className="empty">{narrowed ? t.library.emptySearch : t.library.empty}</p> : null}
      {list.isError ? (
        <p className="empty" role="alert">
          {list.error.message}{" "}
          <button type="button" onClick={() => void list.refetch()}>
            {t.uploads.retry}
          </button>
        </p>
      ) : null}
      {cards.length && width ? (
        <div className="grid" role="list" aria-label={t.library.grid} style={{ height: virtual.getTotalSize() }} onKeyDown={move}>
          {shown.map((row) =>
            cards.slice(row.index * columns, (row.index + 1) * columns).map((card, column) => (
              <div
                key={card.id}
                role="listitem"
                className="cell"
                style={{
                  width: cell,
                  height: cell + FOOT,
                  transform: `translate(${column * (cell + GAP)}px, ${row.start - virtual.options.scrollMargin}px)`,
                }}
              >
                <CardView card={card} place={row.index * columns + column} onOpen={onOpen} />
              </div>
            )),
          )}
        </div>
      ) : null}
      {list.isFetching ? <p className="dim">{t.loading}</p> : null}
    </div>
  );
}

const SIGNS = { vrm: "🧍", animation: "🏃", bgm: "🎵", hdr: "🌅", scene: "🏛️" };

const CardView = memo(function CardView({ card, place, onOpen }: { card: Card; place: number; onOpen: (id: string) => void }) {
  const { t } = useTexts();
  return (
    <button type="button" className="card" data-place={place} data-key={card.s3Key} onClick={() => onOpen(card.id)}>
      <span className="picture">
        {card.thumbnail ? (
          <img src={card.thumbnail} alt="" loading="lazy" decoding="async" />
        ) : (
          <span className="sign" aria-hidden="true">
            {SIGNS[card.category]}
          </span>
        )}
        {card.status !== "ready" ? <span className={`badge ${card.status}`}>{t.states[card.status]}</span> : null}
        {card.warning ? (
          <span className="badge warning" title={t.library.warning}>
            ⚠
          </span>
        ) : null}
      </span>
      <span className="name">{card.name}</span>
      <span className="about">
        {card.duration ? clock(card.duration) : bytes(card.size)}
        {card.visibility === "private" ? ` · ${t.library.private}` : ""}
        {card.commercial ? ` · ${card.commercial.replaceAll("_", " ")}` : ""}
      </span>
    </button>
  );
});
