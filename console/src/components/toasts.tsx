/** Short news at the edge of the page, read out by screen readers. */
import { createContext, useCallback, useContext, useRef, useState, type ReactNode } from "react";

import { ApiError } from "../api/http";
import { useTexts } from "../i18n";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

const Context = createContext<(text: string, bad?: boolean) => void>(() => undefined);

const SHOWN = 6000;

export function ToastProvider({ children }: { children: ReactNode }) {
  const [toasts, set] = useState<Toast[]>([]);
  const next = useRef(1);
  const tell = useCallback((text: string, bad = false) => {
    const id = next.current++;
    set((all) => [...all.slice(-3), { id, text, bad }]);
    setTimeout(() => set((all) => all.filter((one) => one.id !== id)), SHOWN);
  }, []);
  return (
    <Context value={tell}>
      {children}
      <div className="toasts" role="status" aria-live="polite">
        {toasts.map((toast) => (
          <div key={toast.id} className={toast.bad ? "toast bad" : "toast"}>
            {toast.text}
          </div>
        ))}
      </div>
    </Context>
  );
}

export function useToast() {
  return useContext(Context);
}

/** Says what went wrong, in the service's words. */
export function useTellError() {
  const tell = useToast();
  const { t } = useTexts();
  return useCallback(
    (error: unknown) => {
      const text = error instanceof ApiError ? [error.message, error.action].filter(Boolean).join(" ") : t.failed;
      tell(text, true);
    },
    [tell, t],
  );
}
