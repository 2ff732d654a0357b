package admin

import "net/http"

// forNodes lets only nodes in: tokens with the scope node, and admins of every
// team.
func (s *Server) forNodes(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := s.authenticate(r)
		if err == nil {
			err = authorize(p, Follow, "")
		}
		if err != nil {
			writeProblem(w, r, problemOf(err))
			return
		}
		h.ServeHTTP(w, r)
	})
}
