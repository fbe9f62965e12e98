/** What the library is narrowed by. Choices that have numbers come from the service's facets. */
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { facetsOf, TYPES, type FacetsOut, type Filters } from "../../api/library";
import { Field, Select } from "../../components/field";
import { useTexts } from "../../i18n";
import type { LibrarySearch } from "./search";

const PAUSE = 250;

export function FilterBar({ search, onChange }: { search: LibrarySearch; onChange: (values: Partial<LibrarySearch>) => void }) {
  const { t } = useTexts();
  const [typed, setTyped] = useState(search.q ?? "");
  useEffect(() => {
    if (typed === (search.q ?? "")) return;
    const timer = setTimeout(() => onChange({ q: typed || undefined }), PAUSE);
    return () => clearTimeout(timer);
  }, [typed, search.q, onChange]);
  const of: Filters = { type: search.type };
  const facets = useQuery({ queryKey: ["facets", of], queryFn: ({ signal }) => facetsOf(of, signal), staleTime: 60_000 });
  const any = ["", t.library.any] as const;
  const narrowed = Object.keys(search).some((name) => !["sort", "open", "type"].includes(name));
  return (
    <form className="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <Field label={t.library.search}>
        {(id) => <input id={id} type="search" value={typed} maxLength={100} onChange={(event) => setTyped(event.target.value)} />}
      </Field>
      <Select
        label={t.library.type}
        value={search.type ?? ""}
        options={[["", t.library.all], ...TYPES.map((type) => [type, t.types[type]] as const)]}
        onChange={(value) => onChange({ type: (value || undefined) as LibrarySearch["type"] })}
      />
      <Select
        label={t.library.owner}
        value={search.owner ?? ""}
        options={[
          ["", t.library.anyone],
          ["me", t.library.mine],
        ]}
        onChange={(value) => onChange({ owner: value ? "me" : undefined })}
      />
      <Select
        label={t.library.state}
        value={search.trashed ? "trash" : (search.status ?? "")}
        options={[
          ["", t.states.ready],
          ["uploading", t.states.uploading],
          ["failed", t.states.failed],
          ["missing", t.states.missing],
          ["trash", t.library.trash],
        ]}
        onChange={(value) =>
          onChange({
            trashed: value === "trash" || undefined,
            status: value && value !== "trash" ? (value as LibrarySearch["status"]) : undefined,
          })
        }
      />
      <Select
        label={t.library.commercial}
        value={search.commercial ?? ""}
        options={[any, ...choices(facets.data, "commercial")]}
        onChange={(value) => onChange({ commercial: value || undefined })}
      />
      <Select
        label={t.library.redistribution}
        value={search.redistribution ?? ""}
        options={[any, ...choices(facets.data, "redistribution")]}
        onChange={(value) => onChange({ redistribution: value || undefined })}
      />
      {facets.data?.tags.length ? (
        <Select
          label={t.library.tag}
          value={search.tag ?? ""}
          options={[any, ...facets.data.tags.map((one) => [one.value, `${one.value} (${one.count})`] as const)]}
          onChange={(value) => onChange({ tag: value || undefined })}
        />
      ) : null}
      <Select
        label={t.library.sort}
        value={search.sort ?? "-created_at"}
        options={[
          ["-created_at", t.library.newest],
          ["created_at", t.library.oldest],
          ["name", t.library.byName],
          ["-size", t.library.largest],
        ]}
        onChange={(value) => onChange({ sort: value === "-created_at" ? undefined : value })}
      />
      {narrowed ? (
        <button
          type="button"
          className="quiet"
          onClick={() => {
            setTyped("");
            onChange({ q: undefined, owner: undefined, status: undefined, trashed: undefined, visibility: undefined, commercial: undefined, redistribution: undefined, tag: undefined });
          }}
        >
          {t.library.clear}
        </button>
      ) : null}
    </form>
  );
}

function choices(facets: FacetsOut | undefined, part: string): (readonly [string, string])[] {
  return (facets?.licence[part] ?? []).map((one) => [one.value, `${one.value.replaceAll("_", " ")} (${one.count})`] as const);
}
