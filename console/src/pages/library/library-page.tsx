/** The library: what is there, narrowed and sorted by the address; files dropped anywhere on the page are uploaded. */
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useCallback, useEffect, useMemo, useRef, useState } from "react";

import { countAssets, type Filters } from "../../api/library";
import { useSession } from "../../api/session";
import { Icon } from "../../components/icon";
import { useTexts } from "../../i18n";
import { SignedOut } from "../../shell/shell";
import { useUploads } from "../../uploads/context";
import { ACCEPTED } from "../../uploads/places";
import { Thumbnails } from "../../uploads/thumbnails";
import { FilterBar } from "./filter-bar";
import { Grid } from "./grid";
import type { LibrarySearch } from "./search";
import css from "./library-page.module.css";

const Detail = lazy(() => import("./detail"));

export function LibraryPage() {
  const { t } = useTexts();
  const search: LibrarySearch = useSearch({ from: "/library" });
  const navigate = useNavigate({ from: "/library" });
  const session = useSession();
  const uploads = useUploads();
  const picker = useRef<HTMLInputElement>(null);
  const { sort, open, ...rest } = search;
  // The same object while nothing of it changes: the grid need not be drawn for a dialog that opens.
  const key = JSON.stringify(rest);
  const filters = useMemo(() => JSON.parse(key) as Filters, [key]);
  const over = useDrop(uploads.add);

  const change = useCallback(
    (values: Partial<LibrarySearch>) =>
      void navigate({
        search: (now: LibrarySearch) => ({ ...now, ...values }),
        replace: !("open" in values),
        resetScroll: false,
      }),
    [navigate],
  );
  const openCard = useCallback((id: string) => change({ open: id }), [change]);
  const close = useCallback(() => change({ open: undefined }), [change]);

  useEffect(() => {
    document.title = `${t.pages.library} · ${t.brand}`;
  }, [t]);

  if (session.data && !session.data.user_id) return <SignedOut />;
  return (
    <div className={css.library}>
      <div className="page-head">
        <h1>{t.pages.library}</h1>
        <Count filters={filters} />
        <input
          ref={picker}
          type="file"
          multiple
          hidden
          accept={ACCEPTED}
          data-testid="files"
          onChange={(event) => {
            if (event.target.files) uploads.add(event.target.files);
            event.target.value = "";
          }}
        />
        <button type="button" className={`primary ${css.add}`} onClick={() => picker.current?.click()}>
          <Icon of="upload" /> {t.library.upload}
        </button>
      </div>
      <FilterBar search={search} onChange={change} />
      {session.data ? <Grid filters={filters} sort={sort ?? "-created_at"} onOpen={openCard} /> : null}
      <Thumbnails />
      {over ? (
        <div className={css.drop} aria-hidden="true">
          <Icon of="upload" size={40} />
          {t.library.drop}
        </div>
      ) : null}
      {open ? (
        <Suspense fallback={null}>
          <Detail key={open} id={open} onClose={close} />
        </Suspense>
      ) : null}
    </div>
  );
}

/** Takes files that are dropped anywhere on the window; says whether some are held over it. */
function useDrop(add: (files: Iterable<File>) => void): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    // Entering a child is told before leaving its parent: the difference tells whether the window was left.
    let depth = 0;
    const files = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const enter = (event: DragEvent) => {
      if (!files(event)) return;
      depth += 1;
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (!files(event)) return;
      depth = Math.max(depth - 1, 0);
      if (!depth) setOver(false);
    };
    const hold = (event: DragEvent) => {
      if (files(event)) event.preventDefault();
    };
    const drop = (event: DragEvent) => {
      if (!files(event)) return;
      event.preventDefault();
      depth = 0;
      setOver(false);
      if (event.dataTransfer) add(event.dataTransfer.files);
    };
    const all = [
      ["dragenter", enter],
      ["dragleave", leave],
      ["dragover", hold],
      ["drop", drop],
    ] as const;
    for (const [name, listener] of all) addEventListener(name, listener);
    return () => {
      for (const [name, listener] of all) removeEventListener(name, listener);
    };
  }, [add]);
  return over;
}

function Count({ filters }: { filters: Filters }) {
  const { t } = useTexts();
  const found = useQuery({
    queryKey: ["assets", "count", filters],
    queryFn: ({ signal }) => countAssets(filters, signal),
  });
  return (
    <p className={css.count} role="status">
      {found.data ? t.library.count(found.data.total, found.data.exact) : " "}
    </p>
  );
}
