/** Short news at the edge of the page, read out by screen readers. */
import { createContext, useCallback, useContext, useRef, useState, type ReactNode } from "react";

import { useTexts } from "../i18n";
import css from "./toasts.module.css";
import { problemText } from "../i18n/problems";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
  action?: ToastAction;
}

/** What can be done about the news, while it is shown. */
export interface ToastAction {
  label: string;
  run: () => void;
}

type Tell = (text: string, bad?: boolean, action?: ToastAction) => void;

const Telling = createContext<Tell>(() => undefined);
const Told = createContext<{ toasts: Toast[]; drop: (id: number) => void }>({ toasts: [], drop: () => undefined });

const SHOWN = 6000;
const SHOWN_WITH_ACTION = 12_000;

export function ToastProvider({ children }: { children: ReactNode }) {
  const [toasts, set] = useState<Toast[]>([]);
  const next = useRef(1);
  const drop = useCallback((id: number) => set((all) => all.filter((one) => one.id !== id)), []);
  const tell = useCallback<Tell>(
    (text, bad = false, action) => {
      const id = next.current++;
      set((all) => [...all.slice(-3), { id, text, bad, action }]);
      setTimeout(() => drop(id), action ? SHOWN_WITH_ACTION : SHOWN);
    },
    [drop],
  );
  return (
    <Telling value={tell}>
      <Told value={{ toasts, drop }}>
        {children}
        <ToastList />
      </Told>
    </Telling>
  );
}

/** All of them. A modal dialog has a list of its own: whatever is outside of it can be neither seen nor heard. */
export function ToastList() {
  const { toasts, drop } = useContext(Told);
  return (
    <div className={css.toasts} role="status" aria-live="polite">
      {toasts.map(({ id, text, bad, action }) => (
        <div key={id} className={bad ? `${css.toast} bad` : css.toast}>
          <span>{text}</span>
          {action ? (
            <button
              type="button"
              className="quiet"
              onClick={() => {
                drop(id);
                action.run();
              }}
            >
              {action.label}
            </button>
          ) : null}
        </div>
      ))}
    </div>
  );
}

export function useToast() {
  return useContext(Telling);
}

/** Shows what went wrong. */
export function useTellError() {
  const tell = useToast();
  const { t } = useTexts();
  return useCallback(
    (error: unknown) => {
      tell(problemText(error, t), true);
    },
    [tell, t],
  );
}
