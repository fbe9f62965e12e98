/** The library: what is there, narrowed and sorted by the address; files dropped anywhere on the page are uploaded. */
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { Suspense, lazy, useCallback, useEffect, useRef, useState } from "react";

import { countAssets, type Filters } from "../../api/library";
import { useSession } from "../../api/session";
import { useTexts } from "../../i18n";
import { SignedOut } from "../../shell/shell";
import { useUploads } from "../../uploads/context";
import { FilterBar } from "./filter-bar";
import { Grid } from "./grid";
import type { LibrarySearch } from "./search";

const Detail = lazy(() => import("./detail"));

export function LibraryPage() {
  const { t } = useTexts();
  const search: LibrarySearch = useSearch({ from: "/library" });
  const navigate = useNavigate({ from: "/library" });
  const session = useSession();
  const uploads = useUploads();
  const picker = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  const { sort, open, ...filters } = search;

  const change = useCallback(
    (values: Partial<LibrarySearch>) => void navigate({ search: (now: LibrarySearch) => ({ ...now, ...values }), replace: !("open" in values) }),
    [navigate],
  );

  useEffect(() => {
    document.title = `${t.pages.library} · ${t.brand}`;
  }, [t]);

  if (session.data && !session.data.userId) return <SignedOut />;
  return (
    <div
      className={over ? "library over" : "library"}
      onDragOver={(event) => {
        if (!event.dataTransfer.types.includes("Files")) return;
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={(event) => {
        if (event.currentTarget === event.target) setOver(false);
      }}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        uploads.add(event.dataTransfer.files);
      }}
    >
      <div className="page-head">
        <h1>{t.pages.library}</h1>
        <Count filters={filters} />
        <input
          ref={picker}
          type="file"
          multiple
          hidden
          data-testid="files"
          aria-hidden="true"
          tabIndex={-1}
          onChange={(event) => {
            if (event.target.files) uploads.add(event.target.files);
            event.target.value = "";
          }}
        />
        <button type="button" className="primary" onClick={() => picker.current?.click()}>
          {t.library.upload}
        </button>
      </div>
      <FilterBar search={search} onChange={change} />
      {session.data ? <Grid filters={filters} sort={sort ?? "-created_at"} onOpen={(id) => change({ open: id })} /> : null}
      {over ? (
        <div className="drop" aria-hidden="true">
          {t.library.drop}
        </div>
      ) : null}
      {open ? (
        <Suspense fallback={null}>
          <Detail id={open} onClose={() => change({ open: undefined })} />
        </Suspense>
      ) : null}
    </div>
  );
}

function Count({ filters }: { filters: Filters }) {
  const { t } = useTexts();
  const found = useQuery({
    queryKey: ["assets", "count", filters],
    queryFn: ({ signal }) => countAssets(filters, signal),
  });
  return <p className="count">{found.data ? t.library.count(found.data.total, found.data.exact) : " "}</p>;
}
