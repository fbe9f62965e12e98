/** A text to narrow a list by: it takes effect when typing pauses, or at once with Enter. */
import { useEffect, useEffectEvent, useRef, useState } from "react";

import { Field } from "../../components/field";

const PAUSE = 400;

export function FilterField({
  label,
  hint,
  value,
  onChange,
}: {
  label: string;
  hint?: string;
  value: string | undefined;
  onChange: (value: string | undefined) => void;
}) {
  const [typed, setTyped] = useState(value ?? "");
  // What came back is what was said: whoever has typed on meanwhile is not interrupted.
  const said = useRef(value);
  useEffect(() => {
    if (value === said.current) return;
    said.current = value;
    setTyped(value ?? "");
  }, [value]);
  const settle = (text: string) => {
    const wanted = text.trim() || undefined;
    if (wanted === said.current) return;
    said.current = wanted;
    onChange(wanted);
  };
  const pauseOver = useEffectEvent((text: string) => settle(text));
  useEffect(() => {
    const timer = setTimeout(() => pauseOver(typed), PAUSE);
    return () => clearTimeout(timer);
  }, [typed]);
  return (
    <Field label={label}>
      {(id) => (
        <input
          id={id}
          type="search"
          value={typed}
          placeholder={hint}
          maxLength={200}
          autoComplete="off"
          spellCheck={false}
          onChange={(event) => setTyped(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") settle(typed);
          }}
        />
      )}
    </Field>
  );
}
