/** What the library is narrowed by. Choices that have numbers come from the service's facets. */
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";

import { facetsOf, TYPES, type FacetsOut, type Filters } from "../../api/library";
import { Select } from "../../components/field";
import { Icon } from "../../components/icon";
import { useTexts } from "../../i18n";
import type { LibrarySearch } from "./search";
import { formatName, term } from "./words";
import css from "./filter-bar.module.css";

const PAUSE = 250;
const LICENCE = ["commercial", "redistribution", "modification", "credit"] as const;
const NARROWING = [
  "owner",
  "status",
  "trashed",
  "visibility",
  "commercial",
  "redistribution",
  "modification",
  "credit",
  "format",
  "tag",
] as const;
/** From here on there is room for the filters themselves. */
const ROOM = "(min-width: 48rem)";

export function FilterBar({
  search,
  onChange,
}: {
  search: LibrarySearch;
  onChange: (values: Partial<LibrarySearch>) => void;
}) {
  const { t } = useTexts();
  const panel = useId();
  const [typed, setTyped] = useState(search.q ?? "");
  const [shown, setShown] = useState(() => matchMedia(ROOM).matches);
  const asked = search.q ?? "";
  const sent = useRef(asked);
  useEffect(() => {
    if (typed === sent.current) return;
    const timer = setTimeout(() => {
      sent.current = typed;
      onChange({ q: typed || undefined });
    }, PAUSE);
    return () => clearTimeout(timer);
  }, [typed, onChange]);
  // The address has changed by itself: somebody went back.
  useEffect(() => {
    if (asked === sent.current) return;
    sent.current = asked;
    setTyped(asked);
  }, [asked]);
  const narrowed = NARROWING.filter((name) => search[name] !== undefined).length;
  return (
    <form className={css.filters} role="search" onSubmit={(event) => event.preventDefault()}>
      <div className="tabs" role="group" aria-label={t.library.type}>
        <button type="button" aria-pressed={!search.type} onClick={() => onChange({ type: undefined })}>
          {t.library.all}
        </button>
        {TYPES.map((type) => (
          <button
            key={type}
            type="button"
            aria-pressed={search.type === type}
            onClick={() => onChange({ type, format: undefined })}
          >
            <Icon of={type} size={16} /> {t.types[type]}
          </button>
        ))}
      </div>
      <div className={css.searchRow}>
        <input
          type="search"
          aria-label={t.library.search}
          placeholder={t.library.search}
          value={typed}
          maxLength={100}
          onChange={(event) => setTyped(event.target.value)}
        />
        <button type="button" aria-expanded={shown} aria-controls={panel} onClick={() => setShown(!shown)}>
          <Icon of="filter" /> {t.library.filters}
          {narrowed ? <span className={css.howMany}>{narrowed}</span> : null}
        </button>
        <select
          aria-label={t.library.sort}
          value={search.sort ?? "-created_at"}
          onChange={(event) =>
            onChange({ sort: event.target.value === "-created_at" ? undefined : event.target.value })
          }
        >
          <option value="-created_at">{t.library.newest}</option>
          <option value="created_at">{t.library.oldest}</option>
          <option value="-updated_at">{t.library.lastChanged}</option>
          <option value="name">{t.library.byName}</option>
          <option value="-size">{t.library.largest}</option>
          <option value="size">{t.library.smallest}</option>
        </select>
      </div>
      <div className={css.narrow} id={panel} hidden={!shown}>
        {shown ? <Narrow search={search} onChange={onChange} /> : null}
        {narrowed || search.q ? (
          <button
            type="button"
            className="quiet"
            onClick={() => {
              setTyped("");
              onChange({ q: undefined, ...Object.fromEntries(NARROWING.map((name) => [name, undefined])) });
            }}
          >
            {t.library.clear}
          </button>
        ) : null}
      </div>
    </form>
  );
}

function Narrow({ search, onChange }: { search: LibrarySearch; onChange: (values: Partial<LibrarySearch>) => void }) {
  const { t } = useTexts();
  const of: Filters = { type: search.type };
  const facets = useQuery({
    queryKey: ["facets", of],
    queryFn: ({ signal }) => facetsOf(of, signal),
    staleTime: 60_000,
    placeholderData: keepPreviousData,
  }).data;
  const any = ["", t.library.any] as const;
  const labels = {
    commercial: t.library.commercial,
    redistribution: t.library.redistribution,
    modification: t.library.modification,
    credit: t.library.credit,
  };
  const formats = facets?.formats ?? [];
  return (
    <>
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
        label={t.library.visibility}
        value={search.visibility ?? ""}
        options={[any, ["public", t.library.public], ["private", t.library.private]]}
        onChange={(value) => onChange({ visibility: (value || undefined) as LibrarySearch["visibility"] })}
      />
      {!search.type || search.type === "vrm"
        ? LICENCE.map((part) => (
            <Select
              key={part}
              label={labels[part]}
              value={search[part] ?? ""}
              options={[any, ...choices(facets, part, search[part], (value) => term(t, part, value))]}
              onChange={(value) => onChange({ [part]: value || undefined })}
            />
          ))
        : null}
      {formats.length > 1 || search.format ? (
        <Select
          label={t.library.format}
          value={search.format ?? ""}
          options={[any, ...counted(formats, search.format, (value) => formatName(t, value))]}
          onChange={(value) => onChange({ format: value || undefined })}
        />
      ) : null}
      {facets?.tags.length || search.tag ? (
        <Select
          label={t.library.tag}
          value={search.tag ?? ""}
          options={[any, ...counted(facets?.tags ?? [], search.tag, (value) => value)]}
          onChange={(value) => onChange({ tag: value || undefined })}
        />
      ) : null}
    </>
  );
}

type Counted = readonly { value: string; count: number }[];

function choices(
  facets: FacetsOut | undefined,
  part: string,
  chosen: string | undefined,
  say: (value: string) => string,
) {
  return counted(facets?.licence[part] ?? [], chosen, say);
}

/** What is chosen is there to be seen, whatever is counted. */
function counted(
  found: Counted,
  chosen: string | undefined,
  say: (value: string) => string,
): (readonly [string, string])[] {
  const all = found.map((one) => [one.value, `${say(one.value)} (${one.count})`] as const);
  return chosen && !found.some((one) => one.value === chosen) ? [...all, [chosen, say(chosen)]] : all;
}
