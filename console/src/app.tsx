/** What every page has around it: the cache of answers, the language, the uploads under way, the router. */
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";

import { ApiError } from "./api/http";
import { ToastProvider } from "./components/toasts";
import { LanguageProvider } from "./i18n";
import { router } from "./router";
import { UploadsProvider } from "./uploads/context";

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 30_000,
      // What the service refused it will refuse again; what never arrived may arrive next time.
      retry: (count, error) => count < 2 && !(error instanceof ApiError && !error.isPassing),
    },
  },
});

export function App() {
  return (
    <QueryClientProvider client={client}>
      <LanguageProvider>
        <ToastProvider>
          <UploadsProvider>
            <RouterProvider router={router} />
          </UploadsProvider>
        </ToastProvider>
      </LanguageProvider>
    </QueryClientProvider>
  );
}
