/** Why an operator does something: a text that must be given. */
import { Field } from "./field";

export function ReasonField({
  label,
  value,
  onChange,
}: {
  label: string;
  value: string;
  onChange: (value: string) => void;
}) {
  return (
    <Field label={label}>
      {(id) => (
        <input id={id} value={value} maxLength={500} required onChange={(event) => onChange(event.target.value)} />
      )}
    </Field>
  );
}
