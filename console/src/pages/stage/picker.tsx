/** Chooses a file of the library: what is chosen stands on a button, all of them behind it, with pictures and a search. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useDeferredValue, useId, useState } from "react";

import { listAssets, type AssetType } from "../../api/library";
import { Dialog } from "../../components/dialog";
import { Field } from "../../components/field";
import { useTexts } from "../../i18n";
import type { Chosen } from "../../live/choice";
import css from "./picker.module.css";
import { problemText } from "../../i18n/problems";

export function useAssets(type: AssetType, q = "", enabled = true) {
  return useQuery({
    queryKey: ["assets", "of", type, q],
    queryFn: ({ signal }) => listAssets({ type, q, status: "ready" }, "-created_at", null, signal),
    enabled,
    // What was uploaded a moment ago is what one looks for.
    staleTime: 0,
  });
}

export function Picker({
  label,
  type,
  value,
  extra = [],
  onChoose,
}: {
  label: string;
  type: AssetType;
  value: { name: string; thumbnail: string | null; colour?: string };
  /** What is offered besides the library's files. */
  extra?: { name: string; colour?: string; choose: () => void }[];
  onChoose: (chosen: Chosen) => void;
}) {
  const [open, setOpen] = useState(false);
  const id = useId();
  return (
    <div className={`field ${css.picker}`}>
      <span id={id} className={css.label}>
        {label}
      </span>
      <button type="button" aria-labelledby={`${id} ${id}-value`} aria-haspopup="dialog" onClick={() => setOpen(true)}>
        <Picture picture={value} />
        <span id={`${id}-value`} className={`grow ${css.name}`}>
          {value.name}
        </span>
      </button>
      {open ? (
        <Choices
          label={label}
          type={type}
          extra={extra}
          onClose={() => setOpen(false)}
          onChoose={(chosen) => {
            onChoose(chosen);
            setOpen(false);
          }}
        />
      ) : null}
    </div>
  );
}

function Choices({
  label,
  type,
  extra,
  onClose,
  onChoose,
}: {
  label: string;
  type: AssetType;
  extra: { name: string; colour?: string; choose: () => void }[];
  onClose: () => void;
  onChoose: (chosen: Chosen) => void;
}) {
  const { t } = useTexts();
  const [text, setText] = useState("");
  const q = useDeferredValue(text.trim());
  const found = useAssets(type, q);
  const items = found.data?.items;
  return (
    <Dialog title={label} onClose={onClose} wide>
      <Field label={t.library.search}>
        {(id) => <input id={id} type="search" value={text} onChange={(event) => setText(event.target.value)} />}
      </Field>
      <ul className={css.picks}>
        {q
          ? null
          : extra.map((one) => (
              <li key={one.name}>
                <button
                  type="button"
                  className={css.pick}
                  onClick={() => {
                    one.choose();
                    onClose();
                  }}
                >
                  <Picture picture={{ thumbnail: null, colour: one.colour }} />
                  <span className={css.name}>{one.name}</span>
                </button>
              </li>
            ))}
        {items?.map((one) => (
          <li key={one.id}>
            <button
              type="button"
              className={css.pick}
              onClick={() => onChoose({ url: one.url, name: one.name, thumbnail: one.thumbnail })}
            >
              <Picture picture={one} />
              <span className={css.name}>{one.name}</span>
            </button>
          </li>
        ))}
      </ul>
      {items && !items.length ? (
        <p className="dim">
          {q ? t.library.emptySearch : t.stage.nothingToChoose}{" "}
          {q ? null : <Link to="/library">{t.stage.toLibrary}</Link>}
        </p>
      ) : null}
      {found.data?.next ? <p className="dim">{t.stage.searchForMore}</p> : null}
      {found.isError ? <p role="alert">{problemText(found.error, t)}</p> : null}
    </Dialog>
  );
}

function Picture({ picture }: { picture: { thumbnail: string | null; colour?: string } }) {
  if (picture.thumbnail) return <img className={css.picture} src={picture.thumbnail} alt="" loading="lazy" />;
  return (
    <span
      className={css.picture}
      style={picture.colour ? { background: picture.colour } : undefined}
      aria-hidden="true"
    />
  );
}
